"""What `drain`, `disable` and `remove` would hurt: they say it, and ask before nothing is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared_registry.store.keys import Keys
from tests.support.command import Done
from tests.support.in_process import Command

URLS = [f"http://10.0.0.{number}:8000" for number in range(1, 4)]
VERBS = ("drain", "disable", "remove")


@pytest.fixture
def fleet(command: Command, raw: Any, keys: Keys) -> Command:
    """Three healthy replicas with four slots each; three sessions on the first."""
    for number, url in enumerate(URLS):
        labels = ("--label", f"zone={'ab'[number % 2]}")
        assert command("add", url, "--name", f"gpu-{number}", "--capacity", "4", *labels).code == 0
        raw.hset(keys.replica(url), "status", "healthy")
    raw.hset(keys.replica(URLS[0]), "in_flight", "3")
    return command


def admin_states(raw: Any, keys: Keys) -> list[str]:
    return [raw.hget(keys.replica(url), "admin") for url in URLS]


UNCHANGED = ["active"] * 3


def test_a_drain_says_how_many_sessions_and_slots(fleet: Command) -> None:
    lines = fleet("drain", "gpu-0").out.splitlines()
    assert lines == [
        f"gpu-0 {URLS[0]}: draining, 3 sessions on it",
        "left: 2 replicas take new sessions, 8 slots are free",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_changes_nothing(fleet: Command, raw: Any, keys: Keys, verb: str) -> None:
    before = raw.xlen(keys.events)
    told = json.loads(fleet(verb, "gpu-0", "gpu-1", "--dry-run", "--json").out)
    assert [(one["name"], one["outcome"], one["sessions"]) for one in told["results"]] == [
        ("gpu-0", f"would_{verb}", 3),
        ("gpu-1", f"would_{verb}", 0),
    ]
    assert (told["left"], told["is_dry_run"]) == ({"replicas": 1, "free_slots": 4}, True)
    done = fleet(verb, "-l", "zone", "--dry-run")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "left: no replica that takes new sessions"
    assert (admin_states(raw, keys), raw.xlen(keys.events)) == (UNCHANGED, before)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_left_only_after_a_yes(fleet: Command, raw: Any, keys: Keys, verb: str) -> None:
    refused = fleet(verb, *URLS)
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err
    assert "would leave no replica that takes sessions" in refused.err
    for answer in ("n\n", "\n", ""):
        done = fleet(verb, *URLS, typed=answer)
        assert (done.code, done.out) == (1, "")
        assert f"gpu-0 {URLS[0]}, 3 sessions on it" in done.err
        assert "nothing was changed" in done.err
    assert admin_states(raw, keys) == UNCHANGED
    assert fleet(verb, *URLS, typed="y\n").code == 0
    assert "active" not in admin_states(raw, keys)


@pytest.mark.parametrize("verb", VERBS)
def test_scripts_say_yes_beforehand(fleet: Command, raw: Any, keys: Keys, verb: str) -> None:
    done = fleet(verb, *URLS, "--yes")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "left: no replica that takes new sessions"
    assert "active" not in admin_states(raw, keys)


def test_the_last_free_slot_is_asked_for_too(fleet: Command, raw: Any, keys: Keys) -> None:
    for url in URLS[1:]:
        raw.hset(keys.replica(url), "in_flight", "4")
    refused = fleet("drain", "gpu-0")
    assert refused.code == 2
    assert "would leave no free slot" in refused.err
    assert fleet("drain", "gpu-1").out.splitlines()[-1] == "left: 2 replicas take new sessions, 1 slot is free"


def test_what_serves_nobody_goes_without_a_question(fleet: Command, raw: Any, keys: Keys) -> None:
    for url in URLS:
        raw.hset(keys.replica(url), "status", "unhealthy")
    assert fleet("drain", *URLS).code == 0


def test_replicas_without_a_limit_leave_slots_without_one(fleet: Command, raw: Any, keys: Keys) -> None:
    raw.hset(keys.replica(URLS[2]), "capacity", "0")
    assert fleet("drain", "gpu-0").out.splitlines()[-1] == "left: 2 replicas take new sessions, without a limit"
    last = fleet("drain", "gpu-2", "--dry-run").out.splitlines()[-1]
    assert last == "left: 1 replica takes new sessions, 4 slots are free"


def test_replicas_are_changed_by_label(fleet: Command, raw: Any, keys: Keys) -> None:
    assert fleet("drain", "-l", "zone=a").code == 0
    assert admin_states(raw, keys) == ["draining", "active", "draining"]
    assert fleet("enable", "-l", "zone=a").code == 0
    assert admin_states(raw, keys) == UNCHANGED
    assert fleet("disable", "--selector", "zone!=a").code == 0
    assert admin_states(raw, keys) == ["active", "disabled", "active"]


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ((), 2, "nothing is given"),
        (("gpu-0", "-l", "zone=a"), 2, "both are given"),
        (("-l", "zone=z"), 1, "no replica has these labels"),
        (("-l", "zone=a=b"), 2, "NAME=VALUE"),
    ],
)
@pytest.mark.parametrize("verb", [*VERBS, "enable"])
def test_replicas_are_either_named_or_selected(
    fleet: Command, raw: Any, keys: Keys, verb: str, words: tuple[str, ...], code: int, named: str
) -> None:
    done: Done = fleet(verb, *words)
    assert (done.code, done.out) == (code, "")
    assert named in done.err
    assert admin_states(raw, keys) == UNCHANGED
