"""The page about Redis agrees with what routers make of refusals, with the scenarios, and with measured memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import exceptions

from benchmarks.memory import session_costs
from benchmarks.namespace import client_of
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import KeyConflict, SlotMigrating, StoreError, StoreRefused, StoreUnavailable
from shared_registry.store.failures import meaning_of

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
LESS, MORE = 0.75, 1.35
"""What another server, or another number of keys, may take in relation to the figures of the page."""
REFUSALS: dict[str, tuple[type[StoreError], Exception]] = {
    "READONLY": (StoreUnavailable, exceptions.ReadOnlyError("You can't write against a read only replica.")),
    "MASTERDOWN": (StoreUnavailable, exceptions.MasterDownError("Link with MASTER is down")),
    "UNBLOCKED": (StoreUnavailable, exceptions.ResponseError("UNBLOCKED force unblock from blocking operation")),
    "NOREPLICAS": (StoreUnavailable, exceptions.ResponseError("NOREPLICAS Not enough good replicas to write.")),
    "OOM": (StoreUnavailable, exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")),
    "MISCONF": (StoreUnavailable, exceptions.ResponseError("MISCONF Errors writing to the AOF file")),
    "LOADING": (StoreUnavailable, exceptions.BusyLoadingError("Redis is loading the dataset in memory")),
    "BUSY": (StoreUnavailable, exceptions.ResponseError("BUSY Redis is busy running a script.")),
    "NOAUTH": (StoreRefused, exceptions.AuthenticationError("Authentication required.")),
    "WRONGPASS": (StoreRefused, exceptions.AuthenticationError("invalid username-password pair")),
    "NOPERM": (StoreRefused, exceptions.NoPermissionError("this user has no permissions to run 'evalsha'")),
    "max number of clients reached": (StoreUnavailable, exceptions.ConnectionError("max number of clients reached")),
    "CLUSTERDOWN": (StoreUnavailable, exceptions.ClusterDownError("The cluster is down")),
    "MOVED": (StoreUnavailable, exceptions.ClusterError("the nodes of the cluster do not agree")),
    "ASK": (SlotMigrating, exceptions.AskError("1 127.0.0.1:7000")),
    "TRYAGAIN": (StoreUnavailable, exceptions.TryAgainError("Multiple keys request during rehashing of slot")),
    "WRONGTYPE": (KeyConflict, exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind")),
    "no sentinel names the master": (StoreUnavailable, exceptions.ConnectionError("no sentinel names the master 'm'")),
}


def section(name: str) -> str:
    found = re.search(rf"\n## {name}\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_refusal_has_its_row() -> None:
    first_cells = re.findall(r"^\| (`.*?) \|", section("Refusals"), re.MULTILINE)
    assert [name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)] == list(REFUSALS)


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_refusal_is_of_the_kind_that_its_row_says(reply: str) -> None:
    kind, error = REFUSALS[reply]
    assert type(meaning_of(error)) is kind


async def test_the_figures_of_memory_are_measured(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    async with client_of(server.url) as client:
        costs = await session_costs(server.url, client, 500, "sessions")
    table = dict(re.findall(r"^\| (\w[^|]*?) \| (\d+) \|$", section("Memory"), re.MULTILINE))
    named = {
        "router": "a router",
        "lease, of a named session": "a lease",
        "waiter": "a waiter",
        "ended session with a name, for `affinity_seconds`": "the affinity of an ended session",
    }
    for row, what in named.items():
        assert LESS <= costs[what] / int(table[row]) <= MORE, (row, costs[what])
