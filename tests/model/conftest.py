"""A server and an event loop for all examples of a test."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared_registry import restoration
from shared_registry.embedded import EmbeddedServer
from tests.model.bench import connect
from tests.model.steps import ENTRIES_AT_ONCE, Place


@pytest.fixture
def place_on(
    redis_binary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Place]]:
    """Start a server of the test's own; takes settings of it."""
    monkeypatch.setattr(restoration, "ENTRIES_AT_ONCE", ENTRIES_AT_ONCE)
    caplog.set_level(logging.ERROR, logger="shared_registry")  # losses are what these tests are made of
    with ExitStack() as stack:

        def start(**config: str) -> Place:
            server = stack.enter_context(EmbeddedServer(binary=redis_binary, config=config))
            runner = stack.enter_context(asyncio.Runner())
            clients = connect(server.url)
            stack.callback(lambda: runner.run(clients.close()))
            return Place(server, runner, clients, itertools.count())

        yield start
