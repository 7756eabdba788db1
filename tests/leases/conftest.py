"""Two routers that live, for the commands on leases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support.lease_commands import ONE, TWO, leasing
from tests.support.space import Space


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with leasing(server.url, namespace, ONE, TWO) as space:
        yield space
