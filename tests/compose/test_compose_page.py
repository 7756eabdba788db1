"""docs/compose.md, followed as it stands on one machine: each command does what the page says. `make test-compose`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.command import ROOT
from tests.support.compose_cluster import (
    BUILD_SECONDS,
    REPLICAS,
    ROUTERS,
    Stack,
    healthy,
    is_whole,
    leader,
    status,
    wait_for,
)
from tests.support.page_commands import read_page

pytestmark = [pytest.mark.compose, pytest.mark.timeout(400)]

COMMANDS = [
    line.partition("  #")[0].strip()
    for block in read_page((ROOT / "docs" / "compose.md").read_text(encoding="utf-8")).commands
    for line in block.splitlines()
    if line
]
OTHERS = [name for name in REPLICAS if name != "replica-1"]


@pytest.fixture
def stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        yield stack
    finally:
        stack("down", "--volumes", "--remove-orphans")


def all_whole() -> bool:
    return all(is_whole(port) for name, port in ROUTERS.items() if status(port))


def admin_of(name: str) -> str:
    document = status(ROUTERS["router-1"]) or {"replicas": []}
    [found] = [one["admin"] for one in document["replicas"] if one["name"] == name] or [""]
    return str(found)


THEN: dict[str, Callable[[], object]] = {
    " up ": lambda: all(status(port) for port in ROUTERS.values()) and all_whole(),
    " pause ": lambda: all(healthy(port) == OTHERS for port in ROUTERS.values()),
    " unpause ": all_whole,
    " kill ": lambda: leader() in {"router-1", "router-3"},
    " drain ": lambda: admin_of("replica-1") == "draining",
    " enable ": lambda: admin_of("replica-1") == "active",
    " FLUSHALL": all_whole,
}
"""What the page says that follows a command."""
PRINTS = {
    "registry status": ("4 of 4 replicas healthy", "replica-4"),
    "/v1/chat/completions": ("data: [DONE]",),
    "registry routers": ("router-1~", "router-2~", "router-3~"),
    " drain ": ("replica-1 http://replica-1:8000: draining",),
    " enable ": ("replica-1 http://replica-1:8000: enabled",),
    "FLUSHALL": ("OK",),
    "registry events": ("view_restored",),
}
"""What a command prints, by a part of it."""


def test_each_command_does_what_the_page_says(stack: Stack) -> None:
    assert len(COMMANDS) == 11
    shown = {}
    for command in COMMANDS:
        shown[command] = stack.shell(command, BUILD_SECONDS)
        for word, condition in THEN.items():
            if word in f"{command} ":
                wait_for(condition, f"what follows {command}")
    for word, texts in PRINTS.items():
        [printed] = [text for command, text in shown.items() if word in command]
        assert [text for text in texts if text not in printed] == [], (word, printed)
