"""What the dashboard shows of one pool: read from the mirror each second, and from Redis while somebody looks.

Everything from Redis is optional. While Redis is away the last known data stay, with the time of which they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from shared_registry.admin.observer import Observer
from shared_registry.admin.summary import FleetCounts, Situation, summarize
from shared_registry.aio.breath import Breath
from shared_registry.api.history import SAMPLE_SECONDS, History, Sample
from shared_registry.api.replica_rows import replica_row
from shared_registry.errors import RegistryError
from shared_registry.model import Event, Replica, ReplicaRecord
from shared_registry.proxy.pool import Pool

READ_SECONDS = 2.0
REPLICAS_A_SECOND = 1000
"""How many replicas are read from Redis each second at most, for their loads and probe times."""
EVENTS = 20
MOST_ROUTERS = 100
AWAY_SECONDS = 2.0
"""How much older than usual the view is when Redis counts as away."""
RETRY_SECONDS = 5.0
COMPARED_AT_ONCE = 1000
"""How many records are compared with the counted ones in one go, which takes some 0.2 ms."""


class LivePool:
    """One pool on the dashboard.

    Attributes:
        rows: Each replica as JSON, by its key.
        head: All else that is known, as a document.
        history: The last hour.
        new_samples: The samples of the history that the last update has added.
    """

    def __init__(self, pool: Pool, refused: Callable[[], int]) -> None:
        """Follow a pool. `refused` returns how many requests the router has refused so far."""
        self._pool = pool
        self._refused = refused
        self._refused_before = refused()
        self._counts = FleetCounts()
        self._counted: dict[str, ReplicaRecord] = {}
        self._seen: list[ReplicaRecord] = []
        self._shown: dict[str, tuple[ReplicaRecord, int]] = {}
        self.rows: dict[str, str] = {}
        self.head: dict[str, Any] = {}
        self.history = History()
        self.new_samples: list[Sample] = []
        self._sampled_at = -math.inf
        self._queue_read_at = -math.inf
        self._ahead_seconds = 0.0
        self._leaderless_since: float | None = None
        self._read: dict[str, Any] = {"routers": None, "queue": None, "events": None}
        self._loads_at: float | None = None

    def now(self) -> float:
        """Return the time on the Redis server's clock, as far as it is known."""
        return time.time() + self._ahead_seconds

    async def update(self, *, is_watched: bool) -> tuple[list[str], list[str]]:
        """Take over the state of the mirror. Return the keys of the changed rows, and of those that are gone.

        Args:
            is_watched: Whether somebody looks; otherwise only the history is kept, at its own pace.
        """
        self.new_samples = []
        now = time.monotonic()
        is_due = now - self._sampled_at >= SAMPLE_SECONDS
        if not is_watched and not is_due:
            return [], []
        replicas = self._pool.registry.all()
        gone = await self._count(replicas, now)
        changed = await self._show(replicas, now) if is_watched else []
        if not is_watched:
            self._shown.clear()
            self.rows.clear()
        self.head = self._head(self._counts)
        if is_due:
            self._sample(self._counts, now)
        return changed, gone

    async def _count(self, replicas: Sequence[Replica], now: float) -> list[str]:
        """Count the replicas. Those whose record is the one that was counted cost next to nothing.

        Return the keys of the replicas that are gone.
        """
        present_records = [replica.record for replica in replicas]
        if present_records == self._seen:
            return []
        self._seen = present_records
        breath, counted = Breath(), self._counted
        for at in range(0, len(replicas), COMPARED_AT_ONCE):
            records = (replica.record for replica in replicas[at : at + COMPARED_AT_ONCE])
            for record in [record for record in records if counted.get(record.key) is not record]:
                self._count_anew(record, now)
                await breath.pause()
            await breath.pause()
        if len(counted) == len(replicas):
            return []
        present = {replica.record.key for replica in replicas}
        gone = [key for key in counted if key not in present]
        for key in gone:
            self._counts.remove(counted.pop(key))
            self._shown.pop(key, None)
            self.rows.pop(key, None)
            self.history.forget(key)
        return gone

    def _count_anew(self, record: ReplicaRecord, now: float) -> None:
        former = self._counted.get(record.key)
        if former is not None:
            self._counts.remove(former)
            if former.status_since != record.status_since:
                self.history.note_change(record.key, now)
        self._counted[record.key] = record
        self._counts.add(record)

    async def _show(self, replicas: Sequence[Replica], now: float) -> list[str]:
        """Write the rows that have changed, and return their keys."""
        breath, plan, changed = Breath(), self._pool.registry.plan, []
        for replica in replicas:
            await breath.pause()
            record = replica.record
            flaps = self.history.flaps(record.key, now)
            if self._has_changed(record, flaps):
                self._shown[record.key] = record, flaps
                self.rows[record.key] = replica_row(record, plan, flaps)
                changed.append(record.key)
        return changed

    async def read(self) -> None:
        """Read from Redis what the mirror does not have, until cancelled. Errors end nothing."""
        while True:
            with contextlib.suppress(RegistryError):
                async with Observer(self._pool.config) as observer:
                    while True:
                        await self._read_once(observer)
                        await asyncio.sleep(READ_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)

    async def read_loads(self) -> None:
        """Read loads and probe times into the mirror, until cancelled: a large fleet less often."""
        registry = self._pool.registry
        while True:
            with contextlib.suppress(RegistryError):
                if registry.is_started:
                    await registry.refresh()
                    self._loads_at = self.now()
            await asyncio.sleep(max(1.0, self._pool.config.refresh_seconds, len(registry.all()) / REPLICAS_A_SECOND))

    async def _read_once(self, observer: Observer) -> None:
        routers = await observer.routers()
        self._ahead_seconds = routers.at - time.time()
        self._read["routers"] = {
            "at": routers.at,
            "all": [
                {
                    "key": one.info.key,
                    "host": one.info.host,
                    "url": one.info.url,
                    "version": one.info.version,
                    "fingerprint": one.info.config_fingerprint,
                    "differs": routers.agrees_with_leader(one) is False,
                    "started_at": one.info.started_at,
                    "heartbeat_at": one.last_heartbeat_at,
                    "expires_at": one.expires_at,
                    "trouble": one.info.trouble,
                    "probing": one.info.probing,
                    "leases": routers.leases.get(one.info.key),
                    "view_age": one.info.view_age_seconds,
                }
                for one in routers.routers[:MOST_ROUTERS]
            ],
        }
        queue = await observer.queue(1)
        since = queue.waiters[0].since if queue.waiters else None
        self._read["queue"] = {"at": queue.at, "depth": queue.depth, "since": since}
        self._queue_read_at = time.monotonic()
        events = [one for event in await observer.last_events(EVENTS) for one in event.apart()]
        self._read["events"] = {"at": queue.at, "all": [_event_document(one) for one in events[-EVENTS:]]}

    def _has_changed(self, record: ReplicaRecord, flaps: int) -> bool:
        known = self._shown.get(record.key)
        return known is None or known[0] is not record or known[1] != flaps

    def _head(self, counts: FleetCounts) -> dict[str, Any]:
        registry, config, now = self._pool.registry, self._pool.config, self.now()
        leader, moment = registry.leader, time.monotonic()
        if leader is not None:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = moment
        lasts = None if self._leaderless_since is None else moment - self._leaderless_since
        age = registry.age_seconds
        usual = config.refresh_seconds + config.redis_timeout_seconds + AWAY_SECONDS
        away = age if age is not None and age > usual else None
        queue = self._read["queue"] if away is None else None
        summary = summarize(
            counts,
            Situation(
                at=now,
                leader=leader,
                leaderless_since=None if lasts is None else now - lasts,
                waiting=queue and queue["depth"],
                oldest_wait_seconds=now - queue["since"] if queue and queue["since"] else None,
                panic="" if registry.panic is None else str(registry.panic),
                away_seconds=away,
                is_stale=registry.is_stale,
                is_settling=registry.is_settling,
                is_loaded=age is not None,
            ),
        )
        return {
            "pool": self._pool.name,
            "namespace": config.namespace,
            "router": registry.router_key,
            "level": summary.level.value,
            "text": summary.text,
            "counts": {name: getattr(counts, name) for name in (*FleetCounts.__slots__, "has_unlimited")},
            "leader": leader and {"router": leader.router, "epoch": leader.epoch, "since": leader.elected_at},
            "view_at": None if age is None else now - age,
            "loads_at": self._loads_at,
            "is_away": away is not None,
            "write_failure": registry.write_failure,
            "is_in_trouble": registry.is_in_trouble,
            "sessions": self._pool.session_count,
            **self._read,
        }

    def _sample(self, counts: FleetCounts, now: float) -> None:
        refused = self._refused()
        queue = self._read["queue"]
        waiting = queue["depth"] if queue and now - self._queue_read_at < SAMPLE_SECONDS else None
        sample = Sample(now, counts.taken, counts.slots, waiting, refused - self._refused_before)
        self.history.samples.append(sample)
        self.new_samples.append(sample)
        self._refused_before, self._sampled_at = refused, now


def _event_document(event: Event) -> dict[str, Any]:
    record = event.record
    name = "" if record is None else record.endpoint.name or record.endpoint.url
    others = [change.name or change.key for change in event.changes] or [question.key for question in event.questions]
    return {
        "id": event.id,
        "kind": event.kind.value,
        "at": event.at,
        "router": event.router,
        "by": event.by,
        "reason": event.reason,
        "replica": name or event.reported or " ".join(others),
        "admin": record.admin.value if record else "",
    }


def encoded(document: object) -> str:
    """Return a document as compact JSON."""
    return json.dumps(document, separators=(",", ":"))
