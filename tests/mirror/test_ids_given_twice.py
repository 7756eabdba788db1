"""A server whose clock was set back loses its last events, and gives their ids to other events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis import Redis

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.space import A, B, C
from tests.support.until import until

NAMESPACE = "given-twice"
KEYS = Keys(NAMESPACE)


class Server:
    """One whose clock was an hour ahead when the event stream began, so that it counts ids up by one from there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw: Any = Redis.from_url(url, decode_responses=True)
        self._bytes: Any = Redis.from_url(url)
        self._copy: dict[Any, Any] = {}

    def set_clock_back(self) -> None:
        seconds, _ = self.raw.time()
        self.raw.execute_command("XSETID", KEYS.events, f"{seconds * 1000 + 3600000}-0")

    def copy(self) -> None:
        self._copy = {key: self._bytes.dump(key) for key in self.raw.scan_iter(count=1000)}

    def come_back_with_copy(self) -> None:
        """All at once, as a restart or a failover does: no other client sees a moment without keys."""
        with self.raw.pipeline(transaction=True) as pipeline:
            pipeline.flushdb()
            for key, dump in self._copy.items():
                pipeline.restore(key, 0, dump)
            pipeline.execute()


@pytest.fixture
def server(own_server: Callable[..., EmbeddedServer]) -> Server:
    return Server(own_server().url)


@pytest.fixture
async def routers(server: Server) -> AsyncIterator[list[SharedReplicaRegistry]]:
    """Two that see each other's changes at once, and poll seldom."""
    config = RouterConfig(
        redis_url=server.url,
        namespace=NAMESPACE,
        refresh_seconds=0.5,
        heartbeat_seconds=0.5,
    )
    one, other = (SharedReplicaRegistry(config, health_checks=False) for _ in range(2))
    async with one, other:
        for url in (A, B, C):
            await one.register(url)
        server.set_clock_back()
        yield [one, other]


def admin_states(server: Server) -> list[str]:
    return [server.raw.hget(KEYS.replica(url), "admin") or "absent" for url in (A, B, C)]


def shows(one: SharedReplicaRegistry, states: list[str]) -> bool:
    found = [one.get(url) for url in (A, B, C)]
    return [replica.admin.value if replica else "absent" for replica in found] == states


async def changed_by_another(server: Server, change: Callable[[SharedReplicaRegistry], Any]) -> None:
    """Let a router join that knows nothing, and make a change."""
    config = RouterConfig(redis_url=server.url, namespace=NAMESPACE)
    async with SharedReplicaRegistry(config, health_checks=False) as third:
        await change(third)


CHANGES: dict[str, Callable[[SharedReplicaRegistry], Any]] = {
    "none": lambda _: asyncio.sleep(0),
    "of-another-replica": lambda one: one.drain(B),
    "of-the-same-replica": lambda one: one.disable(A),
}


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_lost_change_is_shown_by_no_view(
    server: Server, routers: list[SharedReplicaRegistry], change: str, lost: int
) -> None:
    """Also if as many events follow as were lost, or more."""
    one, other = routers
    await one.drain(C)
    server.copy()
    await one.drain(A)
    if lost == 2:
        await one.drain(B)
    states = admin_states(server)
    await until(lambda: shows(one, states) and shows(other, states))
    last = server.raw.hget(KEYS.meta, "revision")
    server.come_back_with_copy()
    await changed_by_another(server, CHANGES[change])
    revisions = [entry_id for entry_id, _ in server.raw.xrange(KEYS.events)]
    assert last in revisions, "another event has the id of the lost one"
    assert admin_states(server)[0] != "draining"
    await until(lambda: shows(one, admin_states(server)) and shows(other, admin_states(server)))
    await until(lambda: {each.revision for each in routers} == {server.raw.hget(KEYS.meta, "revision")})
    for each in routers:
        assert await each.check() == []


async def test_an_id_given_twice_is_seen_without_another_event(
    server: Server, routers: list[SharedReplicaRegistry]
) -> None:
    one, other = routers
    server.copy()
    await one.drain(A)
    await until(lambda: shows(other, ["draining", "active", "active"]))
    server.come_back_with_copy()
    await other.drain(B)
    await until(lambda: shows(one, ["active", "draining", "active"]) and shows(other, ["active", "draining", "active"]))
