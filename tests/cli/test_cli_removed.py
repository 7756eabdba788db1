"""`status --removed`: what operators removed stays listed until it is added again."""

from __future__ import annotations

import json
from typing import Any

from shared_registry.store.keys import Keys
from tests.support.in_process import Command

A, B, C = (f"http://127.0.0.1:{port}" for port in (1001, 1002, 1003))


def removed(command: Command) -> list[dict[str, Any]]:
    done = command("status", "--removed", "--json")
    assert (done.code, done.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.out)["removed"]
    return found


def test_removed_replicas_are_listed_until_they_are_added(command: Command, raw: Any, keys: Keys) -> None:
    assert removed(command) == []
    assert "no replica of namespace" in command("status", "--removed").out
    assert command("add", A, "--name", "[bold]gpu-1").code == 0
    assert command("add", B, "--by", "me").code == 0
    assert command("add", C).code == 0
    assert command("remove", "[bold]gpu-1", "--yes", "--by", "ops", "--reason", "sold").code == 0
    assert command("remove", B, "--yes", "--by", "[red]else").code == 0
    first, second = removed(command)
    assert abs(first.pop("removed_at") - second.pop("removed_at")) < 60
    assert first == {"url": A, "name": "[bold]gpu-1", "by": "ops", "reason": "sold"}
    assert second == {"url": B, "name": None, "by": "[red]else", "reason": ""}
    shown = command("status", "--removed").out
    for text in (f"[bold]gpu-1 {A}", "ops", "sold", "[red]else", " ago"):
        assert text in shown
    assert A not in command("status").out
    for name in (A, B):
        assert raw.pttl(keys.replica(name)) == -1
    assert command("add", A).code == 0
    assert [one["url"] for one in removed(command)] == [B]


def test_a_removal_of_an_earlier_version_is_listed_without_who(command: Command, raw: Any, keys: Keys) -> None:
    command("add", A)
    command("remove", A, "--yes")
    raw.hdel(keys.replica(A), "removed_by", "admin_since_ms")
    raw.zadd(keys.removed, {B: 5})  # its hash has expired
    (one,) = removed(command)
    assert (one["url"], one["by"], one["removed_at"]) == (A, "", None)
    assert f"{A}  -" in command("status", "--removed").out


def test_removals_are_not_watched(command: Command) -> None:
    done = command("status", "--removed", "--watch")
    assert done.code == 2
    assert "--removed: is a list of this moment" in done.err
