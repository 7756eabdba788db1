"""What the command prints, apart from Redis: lines, urls for redis-cli, results that are told one by one."""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from shared_registry.admin.observer import Overview
from shared_registry.admin.operator import user_at_host
from shared_registry.admin.replica_changes import Change
from shared_registry.cli.changes import Result, Results, change_each, result_lines
from shared_registry.cli.console import duration, printable, timestamp
from shared_registry.cli.event_filter import EventFilter
from shared_registry.cli.event_lines import event_line
from shared_registry.cli.overview_document import overview_document
from shared_registry.cli.redis_cli import key_commands, redis_cli
from shared_registry.cli.status import overview_text
from shared_registry.cli.tables import lines_of
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreUnavailable
from shared_registry.model import AdminState, Event, EventKind, Plan, ReplicaEndpoint, ReplicaRecord, StatusChange
from shared_registry.store.event_document import event_document
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Head
from shared_registry.store.redis_url import check_redis_url

A, B, C = (ReplicaEndpoint(f"http://{host}") for host in "abc")
RECORD = ReplicaRecord("http://a", ReplicaEndpoint("http://a", "gpu-1", primary=True, capacity=4))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min"), (7200, "2 h"), (86400 * 3, "3 d")],
)
def test_a_duration_is_shown_in_its_largest_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_time_is_shown_in_utc() -> None:
    assert timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


def test_text_from_others_cannot_control_the_terminal() -> None:
    assert printable("ünïcode stays") == "ünïcode stays"
    assert printable("a\x1b[2Jb\nc\x9b") == r"a\x1b[2Jb\nc\x9b"


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found"), OSError("No username set")])
def test_a_user_without_a_name_is_shown_by_number(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", fails)
    assert user_at_host() == f"uid-{os.getuid()}@{socket.gethostname()}"


def event(
    kind: EventKind,
    *,
    record: ReplicaRecord | None = None,
    sit_out: float | None = None,
    by: str = "",
    reason: str = "",
) -> Event:
    return Event("17-1", kind, 0.0, "16-0", "r~1", 12, record=record, sit_out_seconds=sit_out, by=by, reason=reason)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (event(EventKind.ROUTER_JOINED), "router_joined         r~1"),
        (event(EventKind.LEADER_ELECTED), "leader_elected        r~1 in epoch 12"),
        (event(EventKind.LEADER_RESIGNED), "leader_resigned       r~1"),
        (
            dataclasses.replace(event(EventKind.PLAN_CHANGED), plan=Plan(1, 12, {"00": "r~2", "01": "r~1"})),
            "plan_changed          shared by r~1 r~2",
        ),
        (event(EventKind.PLAN_CHANGED), "plan_changed          the leader probes all replicas"),
        (
            event(EventKind.LEADER_RESIGNED, sit_out=9.0, by="ann", reason="why"),
            "leader_resigned       r~1 asked to step down, sits out 9 s by ann: why",
        ),
        (
            event(EventKind.REPLICA_REGISTERED, record=RECORD, by="ann"),
            "replica_registered    gpu-1 http://a primary, weight 1, capacity 4 by ann",
        ),
        (
            event(EventKind.REPLICA_ADMIN, record=ReplicaRecord("http://c", C, admin=AdminState.DRAINING)),
            "replica_admin         http://c draining",
        ),
        (
            event(EventKind.REPLICA_EJECTED, record=replace(RECORD, ejected_until=30.0), by="proxy", reason="why"),
            "replica_ejected       gpu-1 http://a for 30 s by proxy: why",
        ),
        (
            event(EventKind.REPLICA_UNHEALTHY, record=RECORD, reason="a\x1b[0m"),
            r"replica_unhealthy     gpu-1 http://a: a\x1b[0m",
        ),
    ],
)
def test_an_event_is_one_line(shown: Event, text: str) -> None:
    assert event_line(shown) == f"17-1  1970-01-01T00:00:00.000Z  {text}"


SEVERAL = dataclasses.replace(
    event(EventKind.REPLICA_UNHEALTHY, by="r~2"),
    changes=(
        StatusChange("http://a", "5-0", 3, None, "gpu-1", ("r~2",), "refused"),
        StatusChange("http://b", "6-0", 3, None, "", (), "timeout"),
    ),
)


@pytest.mark.parametrize("replica", ["", "gpu-1", "http://b", "http://c"])
def test_an_event_of_several_replicas_has_a_line_each(replica: str) -> None:
    shown = [event_line(one) for one in EventFilter(frozenset({replica} - {""})).lines_of(SEVERAL)]
    begin = "17-1  1970-01-01T00:00:00.000Z  replica_unhealthy"
    lines = {
        "gpu-1": f"{begin}     gpu-1 http://a by r~2: refused",
        "http://b": f"{begin}     http://b by r~2: timeout",
    }
    assert shown == ([*lines.values()] if not replica else [lines[replica]] if replica in lines else [])
    assert event_document(SEVERAL)["changes"][1] == {
        "url": "http://b",
        "name": None,
        "consecutive_failures": 3,
        "last_latency_ms": None,
        "unreached_by": [],
        "reason": "timeout",
    }


async def test_a_lost_reply_leaves_one_unknown_and_the_rest_untried() -> None:
    async def change(endpoint: ReplicaEndpoint) -> Change:
        if endpoint is B:
            raise StoreUnavailable("no answer")
        return Change.DRAINING

    results = await change_each([A, B, C], change)
    assert [one.outcome for one in results.each] == ["draining", "unknown", "not_tried"]
    assert str(results.failure) == "no answer"
    assert not results.are_as_asked
    assert result_lines(results) == ["http://a: draining", "http://b: unknown", "http://c: not tried"]


def test_a_replica_removed_meanwhile_makes_the_command_fail() -> None:
    assert Results([Result("http://a", None, "unchanged")]).are_as_asked
    assert not Results([Result("http://a", None, "draining"), Result("http://b", None, "gone")]).are_as_asked


@pytest.mark.parametrize(
    ("url", "words", "note"),
    [
        ("redis://h", "redis-cli -h h -p 6379 -n 0", ""),
        ("redis://h:7000/3", "redis-cli -h h -p 7000 -n 3", ""),
        ("redis://h?db=2", "redis-cli -h h -p 6379 -n 2", ""),
        ("redis://[::1]:7000", "redis-cli -h ::1 -p 7000 -n 0", ""),
        ("rediss://ann:geheim@h", "redis-cli -h h -p 6379 -n 0 --tls --user ann", "REDISCLI_AUTH"),
        ("redis://:geheim@h", "redis-cli -h h -p 6379 -n 0", "REDISCLI_AUTH"),
        ("redis://geheim@h", "redis-cli -h h -p 6379 -n 0", "REDISCLI_AUTH"),
        ("redis://h?password=geheim", "redis-cli -h h -p 6379 -n 0", "REDISCLI_AUTH"),
        ("unix:///run/redis.sock?db=1", "redis-cli -s /run/redis.sock -n 1", ""),
        ("redis+cluster://h1:1,h2:2", "redis-cli -c -h h1 -p 1", ""),
        ("rediss+cluster://h1", "redis-cli -c -h h1 -p 6379 --tls", ""),
        (
            "valkeys://h?ssl_ca_certs=ca&ssl_certfile=c&ssl_keyfile=k",
            "redis-cli -h h -p 6379 -n 0 --tls --cacert ca --cert c --key k",
            "",
        ),
        (
            "rediss://h?ssl_ca_path=cas&ssl_cert_reqs=none",
            "redis-cli -h h -p 6379 -n 0 --tls --cacertdir cas --insecure",
            "",
        ),
        (
            "rediss+sentinel://h1/main?sentinel_password=geheim&ssl_ca_certs=ca",
            "redis-cli -h HOST -p PORT -n 0 --tls --cacert ca",
            "redis-cli -h h1 -p 26379 --tls --cacert ca SENTINEL get-master-addr-by-name main",
        ),
        (
            "redis+sentinel://:geheim@h1,h2/main/4",
            "redis-cli -h HOST -p PORT -n 4",
            "redis-cli -h h1 -p 26379 SENTINEL get-master-addr-by-name main",
        ),
    ],
)
def test_redis_cli_is_given_the_same_redis_and_no_password(url: str, words: str, note: str) -> None:
    check_redis_url(url)
    program, told = redis_cli(url)
    assert " ".join(program) == words
    assert note in told
    assert bool(note) is bool(told)
    assert "geheim" not in told


def test_every_suggested_command_only_reads_keys_of_its_namespace() -> None:
    for look in key_commands(Keys("pool")):
        assert look.arguments[0] in ("HGETALL", "ZRANGE", "SMEMBERS", "PTTL", "XREVRANGE")
        assert look.arguments[1].startswith("sr:{pool}:")
        assert ("<" in look.arguments[1]) is bool(look.each)
        assert "<" not in look.of(r"http://[::1]\1")[1]


def test_the_page_lists_every_key_of_the_status() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    listed = page.partition("\n## `status`\n")[2].partition("\n## ")[0].partition("\nJSON:")[2]
    head = Head(history_id="h", revision="1-0", epoch=1)
    overview = Overview(0.0, head, None, 1, 0, [], "", None)
    assert set(overview_document(RouterConfig(), overview)) <= set(re.findall(r"`(\w+)`", listed))


def test_a_name_cannot_control_the_terminal_after_a_change() -> None:
    [line] = result_lines(Results([Result("http://a", "\x1b[31mevil\n", "draining")]))
    assert line == "\\x1b[31mevil\\n http://a: draining"


def test_the_numbers_of_a_panic_are_those_of_its_beginning() -> None:
    head = Head(history_id="h", revision="1-0", epoch=1)
    overview = Overview(0.0, head, None, 1, 0, [], "1 of 4 active replicas healthy, panic_percent is 50")
    lines = list(lines_of(overview_text(RouterConfig(), overview)))
    assert any(line.startswith("panic      began with 1 of 4 active replicas healthy") for line in lines)
