"""The commands that change something: what they do, what they print, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared_registry.admin.operator import user_at_host
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.command import SECRET, Done, is_one_error
from tests.support.in_process import Command, invoke
from tests.support.router_process import RouterProcess
from tests.support.space import THRESHOLDS, Space, info, on_server
from tests.support.until import until, wait_for

A, B, C = "http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000"
OwnServer = Callable[..., EmbeddedServer]


def events(raw: Any, keys: Keys) -> list[dict[str, str]]:
    return [fields for _, fields in raw.xrange(keys.events)]


def outcomes(done: Done) -> list[str]:
    return [one["outcome"] for one in json.loads(done.out)["results"]]


# add


def test_add_registers_the_given_fields_and_records_the_operator(command: Command, raw: Any, keys: Keys) -> None:
    options = ["--name", "gpu-1", "--primary", "--weight", "2.5", "--capacity", "4", "--order", "7"]
    done = command("add", A, *options, "--by", "ann@desk")
    assert done == Done(0, f"gpu-1 {A}: registered\n", "")
    stored = raw.hgetall(keys.replica(A))
    wanted = {"url": A, "name": "gpu-1", "primary": "1", "weight": "2.5", "capacity": "4", "order": "7"}
    assert wanted.items() <= stored.items()
    assert (stored["source"], stored["status"], stored["admin"]) == ("explicit", "unknown", "active")
    [event] = events(raw, keys)
    assert (event["kind"], event["by"]) == ("replica_registered", "ann@desk")


def test_add_changes_only_what_is_given(command: Command, raw: Any, keys: Keys) -> None:
    command("add", A, "--name", "gpu-1", "--primary", "--capacity", "4")
    assert command("add", f"{A}/").out == f"gpu-1 {A}: unchanged\n"
    assert command("add", A, "--weight", "3").out == f"gpu-1 {A}: updated\n"
    stored = raw.hgetall(keys.replica(A))
    assert (stored["name"], stored["primary"], stored["capacity"], stored["weight"]) == ("gpu-1", "1", "4", "3.0")
    command("add", A, "--secondary", "--capacity", "0", "--name", "")
    stored = raw.hgetall(keys.replica(A))
    assert (stored["name"], stored["primary"], stored["capacity"]) == ("", "0", "0")


def test_add_refuses_the_name_of_another_replica(command: Command, raw: Any, keys: Keys) -> None:
    command("add", A, "--name", "gpu-1")
    refused = command("add", B, "--name", "gpu-1")
    assert is_one_error(refused, 2)
    assert f"{B} cannot be named 'gpu-1': {A} has this name; choose another one" in refused.err
    assert not raw.exists(keys.replica(B))
    assert command("add", A, "--name", "gpu-1").out == f"gpu-1 {A}: unchanged\n"
    raw.hset(keys.replica(A), "name", "gpu-2")
    assert command("add", B, "--name", "gpu-1").code == 0
    raw.hset(keys.replica(A), "name", "gpu-1")
    assert command("add", B, "--weight", "3").out == f"gpu-1 {B}: updated\n"


def test_add_sets_and_removes_single_labels(command: Command, raw: Any, keys: Keys) -> None:
    assert command("add", A, B, "--label", "zone=a", "--label", "gpu=h100").code == 0
    assert command("add", A, "--capacity", "2").out == f"{A}: updated\n"
    assert raw.hget(keys.replica(A), "labels") == "gpu=h100,zone=a"
    assert command("add", A, B, "--label", "zone=b", "--label", "gpu-", "--label", "absent-").code == 0
    assert [raw.hget(keys.replica(url), "labels") for url in (A, B)] == ["zone=b", "zone=b"]
    assert command("add", A, "--label", "zone=b").out == f"{A}: unchanged\n"
    assert "zone=b" in command("status").out
    [replica, _] = json.loads(command("status", "--json").out)["replicas"]
    assert replica["labels"] == {"zone": "b"}
    before = raw.hgetall(keys.replica(A))
    for words, message in (
        (["zone"], "--label: 'zone' must be NAME=VALUE, such as zone=a, or NAME- to remove the label"),
        (["zone=a", "zone-"], "--label: 'zone' is both set and removed"),
        (["a b=c"], "replica.labels: the name 'a b' must be text of 1 to 128 characters"),
    ):
        refused = command("add", A, *(word for one in words for word in ("--label", one)))
        assert is_one_error(refused, 2)
        assert message in refused.err
    assert raw.hgetall(keys.replica(A)) == before


def test_add_sets_and_unsets_the_target_of_probes(command: Command, raw: Any, keys: Keys) -> None:
    fields = ("health_check_path", "health_check_port")
    assert command("add", A, "--health-check-path", "/ready?deep=1", "--health-check-port", "8081").code == 0
    assert raw.hmget(keys.replica(A), *fields) == ["/ready?deep=1", "8081"]
    assert command("add", A, "--capacity", "2").out == f"{A}: updated\n"
    assert raw.hmget(keys.replica(A), *fields) == ["/ready?deep=1", "8081"]
    [replica] = json.loads(command("status", "--json").out)["replicas"]
    assert [replica[name] for name in fields] == ["/ready?deep=1", 8081]
    assert "health check path /ready?deep=1, health check port 8081" in command("events").out
    for words, message in (
        (("--health-check-path", "ready"), "replica.health_check_path: must start with '/'"),
        (("--health-check-path", "/a b"), "replica.health_check_path: has white space"),
        (("--health-check-port", "70000"), "replica.health_check_port: must be a port from 1 to 65535"),
    ):
        refused = command("add", A, *words)
        assert is_one_error(refused, 2)
        assert message in refused.err
    assert command("add", A, "--health-check-path", "", "--health-check-port", "0").out == f"{A}: updated\n"
    assert not raw.hgetall(keys.replica(A)).keys() & set(fields), "what is absent costs nothing"


def test_json_of_the_commands_that_change_replicas(command: Command, server: EmbeddedServer, namespace: str) -> None:
    done = command("add", A, B, B, "--json")
    assert json.loads(done.out) == {
        "redis": server.url,
        "namespace": namespace,
        "by": user_at_host(),
        "results": [
            {"url": A, "name": None, "outcome": "registered"},
            {"url": B, "name": None, "outcome": "registered"},
        ],
    }
    for words, first in {
        ("add",): "unchanged",
        ("drain",): "draining",
        ("disable",): "disabled",
        ("enable",): "enabled",
        ("remove", "--yes"): "removed",
    }.items():
        for outcome in (first, "unchanged"):
            done = command("--json", *words, A, f"{B}/")
            assert (done.code, done.err) == (0, "")
            told = json.loads(done.out)
            takes_slots = words[0] not in ("add", "enable")
            assert list(told) == [
                "redis",
                "namespace",
                "by",
                "results",
                *(["left", "is_dry_run"] if takes_slots else []),
            ]
            each = ["url", "name", "outcome", *(["sessions"] if takes_slots else [])]
            assert [list(one) for one in told["results"]] == [each] * 2
            assert outcomes(done) == [outcome] * 2, words


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([A, "http://10.0.0.2/path"], "without a path"),
        ([A, f"http://u:{SECRET}@10.0.0.2"], "credentials"),
        ([A, "ftp://10.0.0.2"], "http://"),
        ([A, "--weight", "0"], "weight"),
        ([A, "--weight", "nan"], "weight"),
        ([A, "--capacity", "-1"], "capacity"),
        ([A, "--order", "-1"], "order"),
        ([A, "--name", "a\nb"], "name"),
        ([A, B, "--name", "x"], "--name"),
        ([A, B, "--order", "1"], "--order"),
    ],
)
def test_add_refuses_what_is_wrong_and_then_adds_nothing(
    command: Command, raw: Any, keys: Keys, words: list[str], named: str
) -> None:
    done = command("add", *words)
    assert is_one_error(done, 2), done
    assert named in done.err
    assert not raw.keys(f"{keys.prefix}*")


# drain, disable, enable, remove

NOTHING_LEFT = "left: no replica that takes new sessions\n"


def test_each_target_is_named_once_by_name_or_url(command: Command, raw: Any, keys: Keys) -> None:
    command("add", A, "--name", "gpu-1")
    command("add", B)
    done = command("drain", "gpu-1", B.upper().replace("HTTP", "http"), A, "--reason", "upgrade")
    assert done == Done(0, f"gpu-1 {A}: draining\n{B}: draining\n{NOTHING_LEFT}", "")
    last = events(raw, keys)[-2:]
    assert [(one["kind"], one["by"], one["reason"]) for one in last] == [
        ("replica_admin", user_at_host(), "upgrade")
    ] * 2
    assert raw.hget(keys.replica(A), "admin") == raw.hget(keys.replica(B), "admin") == "draining"
    assert command("disable", "gpu-1").out == f"gpu-1 {A}: disabled\n{NOTHING_LEFT}"
    assert command("enable", "gpu-1", B).out == f"gpu-1 {A}: enabled\n{B}: enabled\n"
    assert raw.hget(keys.replica(A), "admin_reason") == ""


@pytest.mark.parametrize("verb", [["drain"], ["enable"], ["disable"], ["remove", "--yes"]], ids=lambda verb: verb[0])
def test_a_typo_among_the_targets_changes_nothing(
    command: Command, raw: Any, keys: Keys, verb: tuple[str, ...]
) -> None:
    command("add", A, "--name", "twin")
    command("add", B)
    raw.hset(keys.replica(B), "name", "twin")  # as two routers may do at the same moment
    command("add", C)
    before = events(raw, keys)
    for target, named in {"gpu-9": "'gpu-9'", "http://10.0.0.9:1": "10.0.0.9:1", "twin": f"{A}, {B}"}.items():
        done = command(*verb, C, target)
        assert is_one_error(done, 1), done
        assert named in done.err
        assert "nothing was changed" in done.err
    assert is_one_error(command(*verb, C, f"http://u:{SECRET}@10.0.0.9"), 2)
    assert events(raw, keys) == before


def test_remove_asks_on_a_terminal_and_refuses_without_one(command: Command, raw: Any, keys: Keys) -> None:
    command("add", A, "--name", "gpu-1")
    command("add", B)
    refused = command("remove", "gpu-1")
    assert is_one_error(refused, 2)
    assert "--yes" in refused.err
    for answer in ("n\n", "\n"):
        done = command("remove", "gpu-1", B, typed=answer)
        assert (done.code, done.out) == (1, "")
        assert f"gpu-1 {A}" in done.err
        assert "nothing was changed" in done.err
    assert raw.zcard(keys.replicas) == 2
    done = command("remove", "gpu-1", "--reason", "broken fan", "--json", typed="y\n")
    assert (done.code, outcomes(done)) == (0, ["removed"])
    assert raw.zrange(keys.replicas, 0, -1) == [B]
    event = events(raw, keys)[-1]
    assert (event["kind"], event["reason"]) == ("replica_deregistered", "broken fan")
    assert outcomes(command("remove", "gpu-1", A, "--yes", "--json")) == ["unchanged"]
    assert command("add", A).out == f"{A}: registered\n"


@pytest.mark.parametrize(
    "words", [["drain"], ["add"], ["drain", A, "--reason", "a\x1b[2J"], ["enable", A, "--by", "x" * 501]]
)
def test_wrong_usage_exits_with_2(command: Command, words: list[str]) -> None:
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert "\x1b[2J" not in done.err


# When Redis has something against it

EVERY_CHANGE = [["add", A], ["remove", A, "--yes"], ["drain", A], ["enable", A], ["disable", A], ["step-down"]]


@pytest.mark.parametrize("words", EVERY_CHANGE, ids=lambda words: words[0])
def test_without_redis_the_exit_status_is_3(words: list[str]) -> None:
    done = invoke(*words, SHARED_REGISTRY_REDIS_URL=f"redis://ann:{SECRET}@127.0.0.1:1/0")
    assert is_one_error(done, 3), done
    assert "redis://ann:***@127.0.0.1:1/0" in done.err
    assert done.err.count("--redis") == 1


def test_every_command_exits_with_2_on_a_wrong_password(own_server: OwnServer) -> None:
    server = own_server(config={"requirepass": SECRET})
    key_commands = [["status"], ["routers"], ["events"], ["events", "-f"], ["wait", "--ready", "1"], ["keys", "--show"]]
    for words in [*EVERY_CHANGE, *key_commands, ["status", "--watch"]]:
        done = invoke(*words, SHARED_REGISTRY_REDIS_URL=server.url.replace("//", f"//:not-{SECRET}@"))
        assert is_one_error(done, 2), done
        assert "password" in done.err


def test_a_refusal_by_redis_is_reported_for_each_target(command: Command, raw: Any, keys: Keys) -> None:
    command("add", A, B, C)
    raw.set(keys.full, "text")
    done = command("drain", A, B, C, "--json")
    assert (done.code, outcomes(done)) == (1, ["failed", "not_tried", "not_tried"])
    [error] = done.err_lines
    assert keys.full in error
    assert command("drain", A, B).out == f"{A}: failed\n{B}: not tried\n"


# step-down


async def test_step_down_names_the_old_leader_and_its_successor(
    command: Command, space: Space, server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    config = {"redis_url": server.url, "namespace": namespace}
    process = RouterProcess(tmp_path / "routers.jsonl", routers=2, replicas=[], config=config)
    try:
        await until(lambda: len(process.lines_of("ready")) == 2 and bool(process.lines_of("leading")), seconds=25)
        await until(space.reader.leader, "a leader")
        old = await space.reader.leader()
        assert old is not None
        done = await asyncio.to_thread(command, "step-down", "--for", "30", "--reason", "kernel", "--json")
        told = json.loads(done.out)
        new = await space.reader.leader()
        assert new is not None
        assert new.router != old.router
        assert (done.code, told) == (
            0,
            {
                "redis": server.url,
                "namespace": namespace,
                "by": user_at_host(),
                "stepped_down": {"router": old.router, "epoch": old.epoch, "sit_out_seconds": 30.0},
                "leader": {"router": new.router, "epoch": new.epoch},
            },
        )
    finally:
        process.kill()


def test_step_down_without_another_candidate_or_without_a_leader(
    command: Command, namespace: str, server: EmbeddedServer, raw: Any, keys: Keys
) -> None:
    nobody = command("step-down")
    assert (nobody.code, nobody.err) == (1, "")
    assert "there is no leader" in nobody.out

    async def elect() -> None:
        async with on_server(server.url, namespace) as space:
            await space.elect()

    asyncio.run(elect())
    done = command("step-down", "--for", "0.2")
    assert done.code == 0
    assert done.out.startswith("router~1 steps down from epoch ")
    assert done.out.endswith("sits out 0.2 s; no other router has taken over yet\n")
    assert events(raw, keys)[-1]["sit_out_ms"] == "200"
    none = command("step-down", "--json")
    assert none.code == 1
    assert json.loads(none.out)["stepped_down"] is None
    for seconds in ("0", "-1", "nan", "inf", "1e9"):
        assert command("step-down", "--for", seconds).code == 2


# routers, wait, events, keys --show: what was changed, as it is shown


async def populated(space: Space) -> None:
    await space.add(A, name="gpu-1", primary=True, by="ann@desk")
    await space.store.record_outcome(space.success(A), THRESHOLDS)
    for key, trouble in (("router~1", ""), ("router~2", "too many open files")):
        await space.store.heartbeat(replace(info(key), trouble=trouble), expiry_seconds=60)
    space.raw.hset(space.keys.router("router~2"), "config_fingerprint", "another")
    await space.elect()


def in_space(server: EmbeddedServer, namespace: str, work: Callable[[Space], Awaitable[None]]) -> None:
    async def run() -> None:
        async with on_server(server.url, namespace) as space:
            await work(space)

    asyncio.run(run())


def test_status_suspects_refused_writes_while_no_router_lives(own_server: OwnServer) -> None:
    server = own_server()
    variables = {"SHARED_REGISTRY_REDIS_URL": server.url, "SHARED_REGISTRY_NAMESPACE": "refusing"}

    async def heartbeat(space: Space) -> None:
        await space.store.heartbeat(info(), expiry_seconds=1.0)
        space.raw.config_set("min-replicas-to-write", 1)

    in_space(server, "refusing", heartbeat)
    wait_for(lambda: "the last heartbeat was written" in invoke("status", **variables).out)
    done = invoke("status", **variables)
    assert done.code == 0
    assert "Redis refuses writes" in " ".join(done.out.split())


def test_routers_lists_every_router_and_the_leader(
    command: Command, server: EmbeddedServer, namespace: str, raw: Any, keys: Keys
) -> None:
    assert "no routers have joined" in command("routers").out
    in_space(server, namespace, populated)
    told = json.loads(command("routers", "--json").out)
    assert list(told) == ["redis", "namespace", "at", "leader", "routers"]
    assert list(told["leader"]) == ["router", "epoch", "elected_at"]
    first, second = told["routers"]
    for one in (first, second):
        assert 0 <= told["at"] - one.pop("last_heartbeat_at") < 30
        assert 30 < one.pop("expires_at") - told["at"] <= 60
    assert first == {
        "key": "router~1",
        "host": "host",
        "pid": 1,
        "version": "0.1",
        "url": "http://router",
        "started_at": 1_700_000_000.5,
        "is_live": True,
        "is_leader": True,
        "config_fingerprint": "fingerprint",
        "agrees_with_leader": True,
        "leases": 0,
        "probes": "all",
        "trouble": None,
        "view_age_seconds": None,
        "probe_age_seconds": None,
        "probe_lag_seconds": None,
    }
    assert second["trouble"] == "too many open files"
    assert (second["key"], second["is_leader"], second["agrees_with_leader"]) == ("router~2", False, False)
    lines = command("routers").out.splitlines()
    assert lines[1].split()[:2] == ["router~1", "yes"]
    assert lines[1].split()[-1] == "fingerprint"
    assert lines[2].split()[-2:] == ["another", "differs"]
    assert "router~2 cannot connect to replicas for reasons of its own: too many open files" in lines[3]
    assert "1 router has other shared settings" in lines[4]
    told = json.loads(command("status", "--json").out)
    assert told["routers_in_trouble"] == {"router~2": "too many open files"}
    assert "router~2 cannot connect to replicas: too many open files" in command("status").out
    raw.zadd(keys.routers, {"router~2": 1000})
    told = json.loads(command("routers", "--json").out)
    assert [one["is_live"] for one in told["routers"]] == [True, False]
    raw.delete(keys.leader)
    told = json.loads(command("routers", "--json").out)
    assert told["leader"] is None
    assert [one["agrees_with_leader"] for one in told["routers"]] == [None, None]


def test_routers_shows_what_each_router_measures_of_itself(
    command: Command, server: EmbeddedServer, namespace: str, raw: Any, keys: Keys
) -> None:
    names = ("view_age_seconds", "probe_age_seconds", "probe_lag_seconds")

    async def measured(space: Space) -> None:
        probing = replace(info(), view_age_seconds=0.25, probe_age_seconds=3.0, probe_lag_seconds=0.0)
        for one in (info("older~1"), probing, replace(info("router~2"), view_age_seconds=0.5)):
            await space.store.heartbeat(one, expiry_seconds=60)

    in_space(server, namespace, measured)
    raw.hdel(keys.router("older~1"), "view_age_ms", "probe_age_ms", "probe_lag_ms")
    told = json.loads(command("routers", "--json").out)["routers"]
    assert [[one[name] for name in names] for one in told] == [
        [None, None, None],
        [0.25, 3.0, 0.0],
        [0.5, None, None],
    ]
    heading, older, measuring, _ = command("routers", COLUMNS="250").out.splitlines()
    at = heading.index("view age")
    assert older[at:].split()[:3] == ["-", "-", "-"]
    assert measuring[at:].split()[:6] == ["0.2", "s", "3.0", "s", "0.0", "s"]


def test_events_lists_the_event_stream(
    command: Command, server: EmbeddedServer, namespace: str, raw: Any, keys: Keys
) -> None:
    assert command("events") == Done(0, "", "")
    in_space(server, namespace, populated)
    told = json.loads(command("events", "--json").out)
    assert list(told) == ["redis", "namespace", "events"]
    assert [one["kind"] for one in told["events"]] == [
        *(
            "replica_registered",
            "replica_healthy",
            "router_joined",
            "router_joined",
            "router_in_trouble",
            "leader_elected",
        )
    ]
    first, healthy, *_, elected = told["events"]
    assert first == {
        "id": raw.xrange(keys.events)[0][0],
        "kind": "replica_registered",
        "at": first["at"],
        "previous": "0-0",
        "router": "router~1",
        "epoch": 0,
        "by": "ann@desk",
        "reason": "",
        "sit_out_seconds": None,
        "reported": None,
        "questions": [],
        "changes": [],
        "participants": None,
        "replica": {
            "url": A,
            "name": "gpu-1",
            "primary": True,
            "weight": 1.0,
            "capacity": 0,
            "order": 0,
            "labels": {},
            "health_check_path": None,
            "health_check_port": None,
            "status": "unknown",
            "admin": "active",
            "ejected_until": None,
            "owner": "",
        },
    }
    assert elected["replica"] is None
    lines = command("events", "--count", "2").out.splitlines()
    assert [line.split()[2] for line in lines] == ["router_in_trouble", "leader_elected"]
    after = command("events", "--after", healthy["id"], "--count", "2").out.splitlines()
    assert [line.split()[0] for line in after] == [one["id"] for one in told["events"][2:4]]
    assert len(command("events", "--after", healthy["id"]).out.splitlines()) == 4
    assert command("events", "--after", elected["id"]).out == ""
    assert command("events", "--count", "0").out == ""
    for words in (["--after", "soon"], ["--count", "-1"], ["-f", "--after", "1-0", "--count", "3"]):
        assert command("events", *words).code == 2


def test_wait_reports_whether_enough_replicas_are_ready(
    command: Command, server: EmbeddedServer, namespace: str
) -> None:
    short = command("wait", "--ready", "1", "--timeout", "0", "--json")
    assert short.code == 1
    assert json.loads(short.out) == {
        "redis": server.url,
        "namespace": namespace,
        "wanted": 1,
        "ready": 0,
        "is_ready": False,
        "seconds": json.loads(short.out)["seconds"],
    }
    in_space(server, namespace, populated)
    assert command("wait", "--ready", "1", "--timeout", "0").code == 0
    late = command("wait", "--ready", "2", "--timeout", "0.3")
    assert (late.code, late.err) == (1, "")
    assert re.match(r"1 ready, 2 wanted, after [\d.]+ s", late.out)
    for words in ([], ["--ready", "0"], ["--ready", "1", "--timeout", "-1"]):
        assert command("wait", *words).code == 2
    gone = invoke("wait", "--ready", "1", "--timeout", "0.3", SHARED_REGISTRY_REDIS_URL="redis://127.0.0.1:1/0")
    assert is_one_error(gone, 3), gone


def test_wait_ends_as_soon_as_enough_replicas_are_ready(
    command: Command, server: EmbeddedServer, namespace: str
) -> None:
    async def run() -> Done:
        async with on_server(server.url, namespace) as space:
            waiting = asyncio.create_task(asyncio.to_thread(command, "wait", "--ready", "1", "--timeout", "30"))
            await asyncio.sleep(0.1)
            await populated(space)
            return await waiting

    done = asyncio.run(run())
    assert done.code == 0
    assert float(done.out.split("after ")[1].split()[0]) < 20


def test_keys_show_prints_each_command_with_its_reply(
    command: Command, server: EmbeddedServer, namespace: str, raw: Any, keys: Keys
) -> None:
    in_space(server, namespace, populated)
    told = json.loads(command("keys", "--show", "--json").out)
    assert list(told) == ["redis", "namespace", "redis_cli", "note", "commands"]
    assert all(list(one) == ["shows", "words", "reply"] for one in told["commands"])
    replies = {tuple(one["words"][:2]): one["reply"] for one in told["commands"]}
    assert replies["HGETALL", keys.meta] == raw.hgetall(keys.meta)
    assert replies["HGETALL", keys.replica(A)]["name"] == "gpu-1"
    assert replies["ZRANGE", keys.ready_primary] == [A, "0"]
    assert {("HGETALL", keys.router("router~1")), ("HGETALL", keys.router("router~2"))} <= replies.keys()
    assert len(replies["XREVRANGE", keys.events]) == 6
    shown = command("keys", "--show").out.splitlines()
    assert f"  {A}: 0" in shown
    assert "  name: gpu-1" in shown
    written = {key for one in told["commands"] for key in one["words"] if key.startswith(keys.prefix)}
    assert set(raw.keys(f"{keys.prefix}*")) <= written, "a key that the list does not show"
