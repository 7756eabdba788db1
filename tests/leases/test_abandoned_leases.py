"""A lease that the program loses without releasing it: a warning tells, and its slot comes back."""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import traceback
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shared_registry import Lease, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.happenings import DegradedBegan, Happening, LeaseAwaited
from shared_registry.leases import asking
from shared_registry.store.channel import Command
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import leases, settle
from tests.support.space import A, Space, on_server
from tests.support.until import until

SECONDS = 60.0


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        await space.add(A, capacity=2)
        await space.make("healthy", A)
        yield space


def registry_at(url: str, space: Space, **changes: Any) -> SharedReplicaRegistry:
    settings: dict[str, Any] = {
        "heartbeat_seconds": 0.2,
        "refresh_seconds": 0.2,
        "router_expiry_seconds": SECONDS,
        "redis_timeout_seconds": 30.0,
    }
    config = RouterConfig(redis_url=url, namespace=space.keys.namespace, **(settings | changes))
    return SharedReplicaRegistry(config, health_checks=False)


@pytest.fixture
async def registry(server: EmbeddedServer, space: Space) -> AsyncIterator[SharedReplicaRegistry]:
    async with registry_at(server.url, space) as registry:
        yield registry


async def lose(registry: SharedReplicaRegistry, session: str | None = None, timeout: float = 0.0) -> str:
    """Fail between `acquire()` and `async with`; return the id of the lease."""
    lease = await registry.acquire(session, timeout=timeout)
    return lease.id


async def test_a_lost_lease_warns_and_its_slot_comes_back(registry: SharedReplicaRegistry, space: Space) -> None:
    with pytest.warns(ResourceWarning) as caught:
        lost = await lose(registry, "anna")
    warned = [str(one.message) for one in caught if one.category is ResourceWarning]
    assert warned == [f"lease {lost} on {A} of session 'anna' was not released"]
    kept = await registry.acquire()
    await until(lambda: leases(space) == {kept.id: A})
    await settle(space, registry)
    assert not kept._record.has_ended
    await kept.release()


async def test_leases_lost_in_another_thread_come_back(registry: SharedReplicaRegistry, space: Space) -> None:
    lost = [await registry.acquire() for _ in range(2)]
    with pytest.warns(ResourceWarning, match="was not released"):
        await asyncio.to_thread(lost.clear)
    await until(lambda: leases(space) == {})
    await settle(space, registry)


async def test_a_lease_lost_in_a_cycle_comes_back(registry: SharedReplicaRegistry, space: Space) -> None:
    class Session:
        def __init__(self, lease: Lease) -> None:
            self.lease, self.itself = lease, self

    Session(await registry.acquire())
    with pytest.warns(ResourceWarning, match=f"on {A} was not released"):
        gc.collect()
    await until(lambda: leases(space) == {})


async def test_a_degraded_lease_that_is_lost_comes_back(space: Space, proxy: FaultyProxy) -> None:
    async with registry_at(proxy.url, space) as registry:
        first = await registry.acquire()
        degraded = registry._parts.placement.outage.degraded
        async with await registry.acquire():
            await until(lambda: degraded.loads is not None)
        await until(lambda: degraded.loads is not None and degraded.loads.in_flight == {A: 1})
        proxy.refuses = True
        proxy.cut()
        with pytest.warns(ResourceWarning, match="was not released"):
            # In Python 3.12 and 3.13, the callers of a call that met an error are kept until their task waits again.
            lost = await asyncio.create_task(lose(registry))
        await until(lambda: lost not in registry._parts.placement.ledger.held)
        again = await registry.acquire()
        assert again.is_degraded
        proxy.refuses = False
        await until(lambda: leases(space) == {first.id: A, again.id: A})
        await first.release()
        await again.release()
        await settle(space, registry)


def errors_met() -> list[BaseException]:
    """Return the errors that a call of `acquire` met and that something still keeps.

    In Python 3.12 and 3.13, such an error keeps the frames of all callers too, and with them what these acquired.
    """
    kept = [one for one in gc.get_objects() if isinstance(one, Exception)]
    return [one for one in kept if any(is_of_acquire(frame) for frame, _ in traceback.walk_tb(one.__traceback__))]


def is_of_acquire(frame: FrameType) -> bool:
    command = frame.f_locals.get("command")
    return frame.f_code.co_filename == asking.__file__ or (isinstance(command, Command) and "acquire" in command.name)


@pytest.mark.parametrize("how", ["at once", "patient", "queued", "repeated"])
async def test_an_error_that_a_placement_met_is_not_kept(space: Space, proxy: FaultyProxy, how: str) -> None:
    quiet = {"heartbeat_seconds": 10.0, "refresh_seconds": 10.0}  # so that the fault strikes the placement
    async with registry_at(proxy.url, space, degraded_placement="unlimited", **quiet) as registry:
        kept = [await registry.acquire() for _ in range(2 if how == "queued" else 1)]
        happened: list[Happening] = []
        registry.subscribe(happened.append)
        proxy.loses_replies = how == "repeated"
        gc.collect()
        gc.disable()
        try:
            losing = asyncio.create_task(lose(registry, timeout=SECONDS if how in {"patient", "queued"} else 0.0))
            if how == "queued":
                await until(lambda: any(isinstance(one, LeaseAwaited) for one in happened))
            if how == "repeated":
                await until(lambda: len(leases(space)) == 2)
                proxy.heal()
            else:
                proxy.refuses = True
            proxy.cut()
            with pytest.warns(ResourceWarning, match="was not released"):
                await losing
            assert any(isinstance(one, DegradedBegan) for one in happened) is (how != "repeated")
            await until(lambda: errors_met() == [])
        finally:
            gc.enable()
        proxy.heal()
        for lease in kept:
            await lease.release()


@pytest.mark.parametrize("how", ["released", "with", "failed", "stopped", "away", "removed", "cancelled"])
async def test_a_lease_that_has_ended_does_not_warn(space: Space, proxy: FaultyProxy, how: str) -> None:
    registry = registry_at(proxy.url, space)
    await registry.start()
    lease = await registry.acquire("anna")
    if how == "with":
        async with lease:
            pass
    elif how == "failed":
        with pytest.raises(ValueError, match="x"):
            async with lease:
                raise ValueError("x")
    elif how == "away":
        proxy.refuses = True
        proxy.cut()
        await lease.release()
        proxy.refuses = False
    elif how == "removed":
        await registry.deregister(A)
        await until(lease.lost.is_set)
        await lease.release()
    elif how == "cancelled":
        task = asyncio.create_task(lease.release())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del task
    elif how == "released":
        await lease.release()
    if how == "stopped":
        await registry.stop()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del lease
        gc.collect()
    assert [str(one.message) for one in caught if issubclass(one.category, ResourceWarning)] == []
    await registry.stop()


PROGRAM = """
import asyncio, os, sys, warnings
from shared_registry import RouterConfig, SharedReplicaRegistry

config = RouterConfig(redis_url=sys.argv[1], namespace=sys.argv[2])
kept = []

async def main(how):
    registry = SharedReplicaRegistry(config, health_checks=False)
    await registry.start()
    kept.append(await registry.acquire())
    if how == "fork":
        child = os.fork()
        if not child:
            kept.clear()
            os._exit(0)
        os.waitpid(child, 0)
        await kept.pop().release()
        await registry.stop()
    if how == "exit":
        kept.append(registry)
        sys.exit(0)
    if how == "lose":
        kept.clear()

if sys.argv[3] == "loop":
    loop = asyncio.new_event_loop()  # never closed, and the registry is never stopped
    loop.run_until_complete(main("exit"))
asyncio.run(main(sys.argv[3]))
"""


@pytest.mark.parametrize("how", ["end", "exit", "loop", "fork", "lose"])
async def test_the_end_of_a_program_does_not_warn(
    server: EmbeddedServer, space: Space, tmp_path: Path, how: str
) -> None:
    """But of a lease that it has lost before."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-W", "always::ResourceWarning", program, server.url, space.keys.namespace, how]
    run = functools.partial(subprocess.run, command, capture_output=True, text=True, timeout=SECONDS)
    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    assert ("was not released" in done.stderr) is (how == "lose"), done.stderr
