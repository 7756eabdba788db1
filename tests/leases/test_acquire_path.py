"""To understand `acquire()`, a reader opens few files."""

from __future__ import annotations

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.tools.acquire_path import measure

MOST_FILES = 8


@pytest.mark.parametrize("how", ["at once", "waiting"])
async def test_acquire_passes_through_few_files_to_its_script(server: EmbeddedServer, namespace: str, how: str) -> None:
    path = (await measure(server.url, namespace))[how]
    assert path.down[0] == "registry/facade.py"
    assert {"store/commands.py", "store/channel.py"} <= set(path.down), "the script was not called"
    assert len(path.down) <= MOST_FILES, path.down
