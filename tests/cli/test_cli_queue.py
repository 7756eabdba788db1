"""The commands on the queue: queue, status, and check with --repair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator

import pytest

from shared_registry.admin import check
from shared_registry.embedded import EmbeddedServer
from tests.support.command import Done
from tests.support.in_process import Command
from tests.support.space import A, Space, info, on_server

DIGEST = hashlib.sha256(b"ann").hexdigest()
WAITERS = [("router~1", "0000000b"), ("router~2", f"0000000a:{DIGEST}"), ("router~1", "0000000c")]


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    """One replica, which is full, and three who wait at two routers, the last of them for an hour."""
    async with on_server(server.url, namespace) as space:
        await space.add(A, capacity=1)
        await space.make("healthy", A)
        stores = {router: space.store_of(router) for router in ("router~1", "router~2")}
        for router, store in stores.items():
            await store.heartbeat(info(router), expiry_seconds=60)
        await space.store.acquire("00000001")
        for router, lease_id in WAITERS:
            await stores[router].acquire(lease_id, max_queue=9, sequence="")
        sequence = space.raw.zscore(space.keys.queue, "/".join(WAITERS[0]))
        space.raw.zadd(space.keys.queue, {"/".join(WAITERS[0]): sequence - 3_600_000})
        yield space


def test_queue_lists_the_waiters_in_order(space: Space, command: Command, server: EmbeddedServer) -> None:
    done = command("queue")
    assert (done.code, done.err) == (0, "")
    heading, *lines, summary = [line.split() for line in done.out.splitlines()]
    assert heading == ["position", "lease", "router", "session", "waits", "for"]
    assert lines[0] == ["1", "0000000b", "router~1", "-", "1", "h"]
    assert lines[1][:4] == ["2", f"0000000a:{DIGEST}"[:12], "router~2", DIGEST[:12]]
    assert lines[2][:4] == ["3", "0000000c", "router~1", "-"]
    assert all(float(line[4]) < 30 and line[5] == "s" for line in lines[1:])
    assert summary == ["3", "sessions", "wait"]

    told = json.loads(command("queue", "--json").out)
    assert list(told) == ["redis", "namespace", "at", "depth", "waiters"]
    assert (told["redis"], told["namespace"], told["depth"]) == (server.url, space.keys.namespace, 3)
    assert [(one["position"], one["router"], one["id"]) for one in told["waiters"]] == [
        (position, *waiter) for position, waiter in enumerate(WAITERS, 1)
    ]
    assert [one["session_digest"] for one in told["waiters"]] == [None, DIGEST, None]
    assert 3600 <= told["at"] - told["waiters"][0]["since"] < 3630
    assert 0 <= told["at"] - told["waiters"][2]["since"] < 30


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_a_limit_shows_only_the_first_waiters(space: Space, command: Command, count: int, shown: int) -> None:
    told = json.loads(command("queue", "--count", str(count), "--json").out)
    assert (told["depth"], [one["position"] for one in told["waiters"]]) == (3, [1, 2, 3][:shown])
    lines = command("queue", "--count", str(count)).out.splitlines()
    assert len(lines) == (shown + 2 if shown else 1)
    more = f"; {3 - shown} are not shown, raise --count" if shown < 3 else ""
    assert lines[-1] == f"3 sessions wait{more}"
    assert command("queue", "--count", "-1").code == 2


def test_a_long_queue_is_read_in_pieces(space: Space, command: Command) -> None:
    space.raw.delete(space.keys.queue)
    space.raw.zadd(space.keys.queue, {f"router~1/{number:08x}": 1000 + number for number in range(1203)})
    told = json.loads(command("queue", "--count", "1100", "--json").out)
    assert told["depth"] == 1203
    assert [int(one["id"], 16) for one in told["waiters"]] == list(range(1100))
    assert len(json.loads(command("queue", "--json").out)["waiters"]) == 20
    assert command("queue").out.endswith("1203 sessions wait; 1183 are not shown, raise --count\n")


def test_queue_says_that_no_session_waits(space: Space, command: Command, server: EmbeddedServer) -> None:
    space.raw.delete(space.keys.queue)
    assert command("queue") == Done(0, f"no session waits in namespace {space.keys.namespace} at {server.url}\n", "")
    assert json.loads(command("queue", "--json").out)["waiters"] == []


def test_text_from_others_cannot_control_the_terminal(space: Space, command: Command) -> None:
    space.raw.zadd(space.keys.queue, {"r\x1b[2J/\x1b[0m:\x1b[1m": 1})
    out = command("queue").out
    assert "\x1b" not in out
    assert r"r\x1b[2J" in out


def test_status_shows_the_number_of_waiters(space: Space, command: Command) -> None:
    lines = command("status").out.splitlines()
    assert any(line.startswith("queue      3 sessions wait, the first for ") for line in lines)
    told = json.loads(command("status", "--json").out)["queue"]
    assert (told["depth"], told["first_since"]) == (
        3,
        space.raw.zrange(space.keys.queue, 0, 0, withscores=True)[0][1] / 1000,
    )
    space.raw.delete(space.keys.queue)
    assert "queue      empty\n" in [line.rstrip() + "\n" for line in command("status").out.splitlines()]
    assert json.loads(command("status", "--json").out)["queue"] == {"depth": 0, "first_since": None}


def test_keys_names_the_keys_of_the_queue(space: Space, command: Command) -> None:
    shown = json.loads(command("keys", "--show", "--json").out)["commands"]
    [waiting] = [one for one in shown if one["words"][1] == space.keys.queue]
    assert waiting["reply"][::2] == ["/".join(waiter) for waiter in WAITERS]
    assert "/".join(WAITERS[2]) in command("keys", "--show").out


def test_check_accepts_a_queue_while_all_replicas_are_full(space: Space, command: Command) -> None:
    assert command("check") == Done(0, f"namespace {space.keys.namespace}: all invariants hold\n", "")


def test_check_reports_a_damaged_queue_and_repair_fixes_it(
    space: Space, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "POLL_SECONDS", 0.0)  # nothing goes on between two reads
    space.raw.hset(space.keys.replica(A), "capacity", 2)
    space.raw.srem(space.keys.full, A)
    space.raw.zadd(space.keys.ready_secondary, {A: 1})
    space.raw.zadd(space.keys.queue, {"router~8/0000000d": 1})
    space.raw.xadd(space.keys.inbox("router~9"), {"lease_id": "0000000e"})
    done = command("check")
    assert (done.code, done.err) == (1, "")
    queue = space.keys.queue
    assert sorted(done.out.splitlines()) == [
        f"queue: {queue}: 3 sessions wait, although 1 replicas have room",
        f"queue: {queue}: router~8 has waiters or an inbox, but is not listed, so nothing reaps it",
        f"queue: {queue}: router~9 has waiters or an inbox, but is not listed, so nothing reaps it",
    ]
    told = json.loads(command("check", "--json").out)
    assert {(one["rule"], one["key"]) for one in told["violations"]} == {("queue", queue)}

    done = command("check", "--repair", "--by", "ann@desk")
    assert done == Done(0, f"namespace {space.keys.namespace}: all invariants hold\n", "")
    assert space.raw.zrange(queue, 0, -1) == ["/".join(waiter) for waiter in WAITERS[1:]]
    router, lease_id = WAITERS[0]
    assert space.raw.hget(space.keys.leases(router), lease_id) == A  # the first in the queue has the room
    assert space.fields(A)["in_flight"] == "2"
    assert not space.raw.exists(space.keys.inbox("router~9"))
    _, event = space.raw.xrevrange(space.keys.events, count=1)[0]
    assert (event["kind"], event["by"]) == ("namespace_repaired", "ann@desk")
