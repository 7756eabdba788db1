"""Rebuilds the shared state from what a registry or a mirror reports, and refuses reports that change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from shared_registry import happenings
from shared_registry.happenings import Happening, ReplicaHappening
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.news import News
from shared_registry.model import ORIGIN, AdminState, ReplicaEndpoint, ReplicaRecord, ReplicaStatus, is_later

ADMIN = {
    happenings.ReplicaDrained: AdminState.DRAINING,
    happenings.ReplicaExpired: AdminState.DRAINING,
    happenings.ReplicaDisabled: AdminState.DISABLED,
    happenings.ReplicaEnabled: AdminState.ACTIVE,
}


class State(NamedTuple):
    """What listeners are told of a replica."""

    endpoint: ReplicaEndpoint
    status: ReplicaStatus
    admin: AdminState
    suspicion: str
    ejected_until: float | None

    @classmethod
    def of(cls, record: ReplicaRecord) -> State:
        return cls(record.endpoint, record.health.status, record.admin, record.doubt.suspicion, record.ejected_until)


def states(mirror: Mirror) -> dict[str, State]:
    return {replica.key: State.of(replica.record) for replica in mirror.view.all()}


class Replay:
    """What one has who only listens."""

    def __init__(self, mirror: Mirror) -> None:
        self.replicas = states(mirror)
        self.leader = mirror.leader
        self.is_panic = mirror.view.panic is not None
        self.heard: list[Happening] = []
        self._revisions: dict[str, str] = {}

    def hear(self, happening: Happening) -> None:
        self.heard.append(happening)
        if isinstance(happening, happenings.ViewLoaded):
            self._revisions.clear()
        elif isinstance(happening, ReplicaHappening):
            self._take(happening)
        elif isinstance(happening, happenings.LeaderChanged):
            assert happening.former == self.leader or _epoch(happening.former) == _epoch(self.leader)
            assert _epoch(happening.leader) != _epoch(self.leader)
            self.leader = happening.leader
        elif isinstance(happening, happenings.PanicBegan | happenings.PanicEnded):
            assert self.is_panic is isinstance(happening, happenings.PanicEnded)
            self.is_panic = not self.is_panic

    def _take(self, happening: ReplicaHappening) -> None:
        key, now = happening.record.key, State.of(happening.record)
        before = self.replicas.get(key)
        is_found_gone = isinstance(happening, happenings.ReplicaRemoved) and now.admin is not AdminState.REMOVED
        if is_found_gone:  # by comparing, with the record that was there before
            self._revisions.pop(key, None)
        revision, last = happening.record.revision, self._revisions.get(key, ORIGIN)
        assert not is_later(last, revision), f"an older change is reported after a newer one: {happening}"
        if not is_found_gone:
            self._revisions[key] = revision
        if isinstance(happening, happenings.ReplicaRegistered):
            assert before is None
            self.replicas[key] = now
            return
        assert before is not None, happening
        if isinstance(happening, happenings.ReplicaRemoved):
            del self.replicas[key]
            return
        after = _changed(before, happening, now)
        assert after != before, happening
        self.replicas[key] = after


def _changed(before: State, happening: ReplicaHappening, now: State) -> State:
    """Return the state with only what the happening says taken over."""
    if isinstance(happening, happenings.ReplicaUpdated):
        assert happening.former == before.endpoint
        return before._replace(endpoint=now.endpoint)
    if isinstance(happening, happenings.ReplicaHealthy | happenings.ReplicaUnhealthy | happenings.ReplicaUnjudged):
        assert happening.former is before.status
        return before._replace(status=now.status, suspicion=now.suspicion)
    if isinstance(happening, happenings.ReplicaSuspected | happenings.ReplicaCleared):
        return before._replace(suspicion=now.suspicion)
    if isinstance(happening, happenings.ReplicaEjected | happenings.ReplicaReturned):
        return before._replace(ejected_until=now.ejected_until)
    return before._replace(admin=ADMIN[type(happening)])


def _epoch(leader: object) -> object:
    return leader and (leader.router, leader.epoch)  # type: ignore[attr-defined]


@contextlib.contextmanager
def replaying(mirror: Mirror) -> Iterator[Replay]:
    """Listen to a mirror that has loaded the state."""
    replay, news = Replay(mirror), News(mirror.emitter, mirror)
    end = mirror.emitter.subscribe(replay.hear)
    news.start()
    with mirror.subscribed(news.notice):
        yield replay
    end()
