"""`events` with a choice: since when, about which replica, of which kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared_registry.cli.event_filter import parse_age, parse_kinds
from shared_registry.model import EventKind
from shared_registry.store.keys import Keys
from tests.support.command import running
from tests.support.in_process import Command
from tests.support.until import wait_for

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


@pytest.fixture
def changed(command: Command) -> Command:
    """Two replicas that were registered; the first was drained and enabled, the second drained."""
    for url, name in ((A, "gpu-1"), (B, "gpu-2")):
        assert command("add", url, "--name", name).code == 0
    for verb, name in (("drain", "gpu-1"), ("drain", "gpu-2"), ("enable", "gpu-1")):
        assert command(verb, name).code == 0
    return command


def shown(done: Any) -> list[str]:
    assert (done.code, done.err) == (0, "")
    return [f"{one['replica']['name']} {one['replica']['admin']}" for one in json.loads(done.out)["events"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--replica", "gpu-1"), ["gpu-1 active", "gpu-1 draining", "gpu-1 active"]),
        (("--replica", f"{B}/"), ["gpu-2 active", "gpu-2 draining"]),
        (("--replica", "gpu-9"), []),
        (("--kind", "replica_admin"), ["gpu-1 draining", "gpu-2 draining", "gpu-1 active"]),
        (("--kind", "replica_admin", "--count", "1"), ["gpu-1 active"]),
        (("--kind", "replica_admin", "--after", "0", "--count", "1"), ["gpu-1 draining"]),
        (("--kind", "replica_admin", "--replica", "gpu-2"), ["gpu-2 draining"]),
        (
            ("--replica", "gpu-1", "--replica", "gpu-2", "--kind", "replica_registered"),
            ["gpu-1 active", "gpu-2 active"],
        ),
        (("--kind", "leader"), []),
        (("--count", "0", "--kind", "replica"), []),
        (("--since", "10m", "--kind", "replica_admin", "--replica", "gpu-2"), ["gpu-2 draining"]),
    ],
)
def test_events_are_selected(changed: Command, words: tuple[str, ...], expected: list[str]) -> None:
    assert shown(changed("events", "--json", *words)) == expected


def test_since_leaves_out_what_is_older(changed: Command, raw: Any, keys: Keys) -> None:
    first, *rest = raw.xrange(keys.events)
    raw.delete(keys.events)
    seconds, _ = raw.time()
    for number, (age, (_, fields)) in enumerate([(7200, first), *((600, one) for one in rest)]):
        raw.xadd(keys.events, fields, id=f"{(seconds - age) * 1000}-{number}")
    assert len(shown(changed("events", "--since", "1h", "--json"))) == len(rest)
    assert len(shown(changed("events", "--since", "1d", "--json"))) == len(rest) + 1
    assert shown(changed("events", "--since", "5m", "--json")) == []


def test_followed_events_are_selected_too(changed: Command, variables: dict[str, str], tmp_path: Path) -> None:
    words = ("events", "--follow", "--replica", "gpu-2", "--kind", "replica_admin")
    with running(tmp_path, *words, **variables) as lines:
        wait_for(lambda: "gpu-2" in lines.out, "what was before")
        changed("drain", "gpu-1")
        changed("enable", "gpu-2")
        wait_for(lambda: lines.out.count("gpu-2") == 2, "what comes")
    assert "gpu-1" not in lines.out
    assert lines.err == ""


@pytest.mark.parametrize(
    "words", [("--since", "10"), ("--since", "1w"), ("--kind", "nothing"), ("--since", "1h", "--after", "0")]
)
def test_a_choice_that_means_nothing_is_refused(command: Command, words: tuple[str, ...]) -> None:
    done = command("events", *words)
    assert (done.code, done.out) == (2, "")
    assert words[0] in done.err


def test_a_word_for_several_kinds_means_all_of_them() -> None:
    assert parse_kinds(["leader"]) == {EventKind.LEADER_ELECTED, EventKind.LEADER_RESIGNED}
    assert parse_kinds([]) == frozenset()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0)])
def test_an_age_has_a_unit(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds
