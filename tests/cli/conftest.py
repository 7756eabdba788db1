"""The command on the namespace of a test, and that namespace without any of our code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.in_process import Command, invoke


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[Any]:
    with Redis.from_url(server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
def variables(server: EmbeddedServer, namespace: str) -> dict[str, str]:
    """The variables that lead the command to this test's namespace, and let Redis answer late on a busy machine."""
    return {
        "SHARED_REGISTRY_REDIS_URL": server.url,
        "SHARED_REGISTRY_NAMESPACE": namespace,
        "SHARED_REGISTRY_REDIS_TIMEOUT_SECONDS": "20",
    }


@pytest.fixture
def command(variables: dict[str, str]) -> Command:
    """The command on this test's namespace."""
    return lambda *words, **more: invoke(*words, **(variables | more))
