"""A server and an event loop for all examples of a test."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shared_registry.admin import check
from shared_registry.embedded import EmbeddedServer
from shared_registry.mirror import restoration
from shared_registry.store import channel as scripts
from shared_registry.store.lua import assemble_all
from tests.support.model.bench import connect
from tests.support.model.queue_rules import CHECKED_AT_ONCE, GRANTS_AT_ONCE, PAGE
from tests.support.model.steps import ENTRIES_AT_ONCE, LEASES_AT_ONCE, Harness

SCANS_IN_PAGES = {"hash-max-ziplist-entries": "0", "zset-max-ziplist-entries": "0"}
"""Otherwise a scan gives a small hash, or sorted set, whole."""
AT_ONCE = {
    "LEASES_AT_ONCE": LEASES_AT_ONCE,
    "WAITERS_AT_ONCE": LEASES_AT_ONCE,
    "GRANTS_AT_ONCE": GRANTS_AT_ONCE,
    "CHECKED_AT_ONCE": CHECKED_AT_ONCE,
    "PAGE": PAGE,
    "SCAN_MS": -1,  # the model does not know how old a scan is
}


def in_small_pieces() -> dict[str, str]:
    """Return the commands with texts that do so little at once that a few sessions take several calls."""
    texts = assemble_all()
    for limit, number in AT_ONCE.items():
        texts = {
            name: re.sub(rf"local {limit} = \d+", f"local {limit} = {number}", text) for name, text in texts.items()
        }
    return texts


@contextmanager
def scripts_in_small_pieces() -> Iterator[None]:
    """Let what is made meanwhile run commands in small pieces, and nothing made later."""
    scripts.scripts.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scripts, "assemble_all", in_small_pieces)
            yield
    finally:
        scripts.scripts.cache_clear()


@pytest.fixture
def place_on(
    redis_binary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Harness]]:
    """Start a server of the test's own; takes settings of it."""
    monkeypatch.setattr(restoration, "ENTRIES_AT_ONCE", ENTRIES_AT_ONCE)
    monkeypatch.setattr(check, "POLL_SECONDS", 0.0)  # nothing goes on between two reads
    caplog.set_level(logging.ERROR, logger="shared_registry")  # losses are what these tests are made of
    with ExitStack() as stack:
        stack.enter_context(scripts_in_small_pieces())

        def start(**config: str) -> Harness:
            server = stack.enter_context(EmbeddedServer(binary=redis_binary, config=SCANS_IN_PAGES | config))
            runner = stack.enter_context(asyncio.Runner())
            clients = connect(server.url)
            stack.callback(lambda: runner.run(clients.close()))
            return Harness(server, runner, clients, itertools.count())

        yield start
