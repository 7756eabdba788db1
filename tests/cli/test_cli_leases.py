"""The commands about leases: leases, drain --wait, remove --when-drained, and check --repair."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support.command import Done, running
from tests.support.in_process import Command, invoke
from tests.support.space import A, B, Space, info, on_server
from tests.support.until import until

Apart = Callable[..., Awaitable[Done]]
DIGEST = hashlib.sha256(b"ann").hexdigest()
LEFT = "left: 1 replica takes new sessions, without a limit\n"
LEASES = {"0000000a": A, f"0000000b:{DIGEST}": B}


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        for url in (A, B):
            await space.add(url, name=f"gpu-{url[14]}")
            await space.make("healthy", url)
        await space.store.heartbeat(info("router~1"), expiry_seconds=60)
        await space.store.restore_leases(LEASES)
        yield space


@pytest.fixture
def apart(variables: dict[str, str]) -> Apart:
    """The command beside what the test does meanwhile."""
    return lambda *words: asyncio.to_thread(invoke, *words, **variables)


def test_leases_lists_each_lease_with_router_and_replica(
    space: Space, command: Command, server: EmbeddedServer
) -> None:
    done = command("leases")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[1:3] == [["0000000a", "router~1", A, "-"], [f"0000000b:{DIGEST}"[:12], "router~1", B, DIGEST[:12]]]
    assert done.out.splitlines()[3] == "2 leases of 1 routers on 2 replicas"
    assert json.loads(command("leases", "--json").out) == {
        "redis": server.url,
        "namespace": space.keys.namespace,
        "leases": [
            {"id": "0000000a", "router": "router~1", "url": A, "session_digest": None},
            {"id": f"0000000b:{DIGEST}", "router": "router~1", "url": B, "session_digest": DIGEST},
        ],
    }


def test_leases_says_that_there_are_no_leases(space: Space, command: Command) -> None:
    space.raw.delete(space.keys.leases("router~1"))
    assert command("leases").out.startswith("no leases are held in namespace")


async def test_drain_waits_until_the_last_session_has_ended(
    space: Space, server: EmbeddedServer, tmp_path: Path
) -> None:
    options = ["--redis", server.url, "-n", space.keys.namespace]
    with running(tmp_path, *options, "drain", "gpu-1", "gpu-2", "--wait", "--yes", "--timeout", "20") as drain:
        for left, lease_id in zip((2, 1), LEASES, strict=True):
            await until(lambda left=left: f"{left} sessions left\n" in drain.err)  # type: ignore[misc]
            assert drain.process.poll() is None
            await space.store.release(lease_id)
        await until(lambda: drain.process.poll() is not None)
        assert (drain.process.returncode, drain.err) == (0, "2 sessions left\n1 sessions left\n0 sessions left\n")
        assert drain.out == (
            f"gpu-1 {A}: draining, 1 session on it\ngpu-2 {B}: draining, 1 session on it\n"
            "left: no replica that takes new sessions\n"
        )


def test_drain_gives_up_in_time_and_goes_on_draining(space: Space, command: Command) -> None:
    done = command("drain", "gpu-1", "--wait", "--timeout", "0.3")
    assert (done.code, done.err) == (1, "1 sessions left\n")
    assert space.fields(A)["admin"] == "draining"
    done = command("drain", "gpu-1", "--timeout", "3")
    assert done.code == 2
    assert "add --wait" in done.err


async def test_a_replica_is_removed_with_its_last_session(space: Space, apart: Apart) -> None:
    done = await apart("remove", "gpu-1", "--when-drained", "--yes", "--reason", "fan")
    assert done == Done(0, f"gpu-1 {A}: draining, 1 session on it\n{LEFT}", "")
    assert (
        await apart("remove", "gpu-1", "--when-drained", "--yes")
    ).out == f"gpu-1 {A}: unchanged, 1 session on it\n{LEFT}"
    await space.store.release("0000000a")
    fields = space.fields(A)
    assert (fields["admin"], fields["admin_reason"]) == ("removed", "fan")


async def test_enabling_a_replica_cancels_its_removal(space: Space, apart: Apart) -> None:
    await apart("remove", "gpu-1", "--when-drained", "--yes")
    assert (await apart("enable", "gpu-1")).code == 0
    await space.store.release("0000000a")
    assert space.fields(A)["admin"] == "active"


def test_a_replica_without_sessions_is_removed_at_once(space: Space, command: Command) -> None:
    space.raw.hdel(space.keys.leases("router~1"), "0000000a")
    space.raw.hset(space.keys.replica(A), "in_flight", 0)
    assert command("remove", "gpu-1", "--when-drained", "--yes").out == f"gpu-1 {A}: removed\n{LEFT}"


def test_repair_fixes_derived_data_and_names_the_rest(space: Space, command: Command) -> None:
    space.raw.hset(space.keys.replica(A), "in_flight", 7)
    space.raw.zadd(space.keys.ready_secondary, {A: 0.5})
    done = command("check")
    assert done.code == 1
    assert "in_flight is 7, but 1 leases name it" in done.out
    done = command("check", "--repair", "--by", "ann@desk")
    assert done == Done(0, f"namespace {space.keys.namespace}: all invariants hold\n", "")
    assert space.fields(A)["in_flight"] == "1"
    _, event = space.raw.xrevrange(space.keys.events, count=1)[0]
    assert (event["kind"], event["by"]) == ("namespace_repaired", "ann@desk")
    space.raw.hset(space.keys.replica(A), "weight", "heavy")
    done = command("check", "--repair", "--json")
    assert done.code == 1
    assert [one["rule"] for one in json.loads(done.out)["violations"]] == ["type", "type"]
