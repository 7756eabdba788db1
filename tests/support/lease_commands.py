"""Replicas that may take sessions, and routers that place them, for tests of the commands on leases."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Collection
from typing import Any

from shared_registry.admin.check import find_violations
from shared_registry.store.replies import Denial, Denied, Grant, Heartbeat
from tests.support.space import A, Space, info, on_server

ONE, TWO, THREE = "router~1", "router~2", "router~3"
EXPIRY_SECONDS = 60.0
_serial = itertools.count(1)


def lease_id(tie: int = 0, session: str = "") -> str:
    """Return an id that was not used before; `tie` says which of the tied replicas it takes."""
    text = f"{tie:08x}{next(_serial):08x}"
    return f"{text}:{session}" if session else text


@contextlib.asynccontextmanager
async def leasing(server_url: str, namespace: str, *routers: str) -> AsyncIterator[Space]:
    """A space with live routers; afterwards everything in it must be sound, and every lease counted."""
    async with on_server(server_url, namespace) as space:
        for router in routers:
            await heartbeat(space, router)
        yield space
        assert await find_violations(space.reader, space.keys) == []
        expect_counted(space)


def expect_counted(space: Space) -> None:
    held = Counter(
        url for key in space.raw.scan_iter(match=space.keys.leases("*"), count=1000) for url in space.raw.hvals(key)
    )
    counted = {}
    for key in space.raw.scan_iter(match=space.keys.replica("*"), count=1000):
        counted[key.removeprefix(space.keys.replica_prefix)] = int(space.raw.hget(key, "in_flight"))
    assert {url: count for url, count in counted.items() if count} == held


async def heartbeat(space: Space, router: str = ONE) -> Heartbeat:
    return await space.store_of(router).heartbeat(info(router), expiry_seconds=EXPIRY_SECONDS)


async def serve(space: Space, *urls: str, **spec: Any) -> None:
    """Register replicas that are healthy."""
    for url in urls or (A,):
        await space.add(url, **spec)
        await space.make("healthy", url)


async def acquire(
    space: Space,
    session: str = "",
    *,
    tie: int = 0,
    router: str = ONE,
    avoided: Collection[str] = (),
    excluded: Collection[str] = (),
) -> tuple[str, str]:
    """Return the id of a lease and the url that it is on; fail where it is denied."""
    new = lease_id(tie, session)
    grant = await space.store_of(router).acquire(new, avoided=avoided, excluded=excluded)
    assert isinstance(grant, Grant), grant
    return new, grant.key


async def denied(space: Space, *, excluded: Collection[str] = (), avoided: Collection[str] = ()) -> Denial:
    """Return why no lease is given; fail where one is."""
    before = space.dump()
    denied = await space.store.acquire(lease_id(), excluded=excluded, avoided=avoided)
    assert isinstance(denied, Denied), denied
    assert space.dump() == before
    return denied.reason


def in_flight(space: Space, url: str = A) -> int:
    return int(space.fields(url)["in_flight"])


def held_by(space: Space, router: str = ONE) -> dict[str, str]:
    """Return the leases that Redis has of a router."""
    leases: dict[str, str] = space.raw.hgetall(space.keys.leases(router))
    return leases


def has_departed(space: Space, url: str = A) -> bool:
    """Whether a replica was removed, and its tombstone stays."""
    is_removed = space.fields(url)["admin"] == "removed" and space.raw.zscore(space.keys.replicas, url) is None
    return is_removed and space.raw.pttl(space.keys.replica(url)) == -1


async def remove_when_drained(space: Space, url: str = A) -> None:
    await space.store.deregister(url, space.incarnation(url), reason="old", when_drained=True)
