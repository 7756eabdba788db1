"""A session's `acquire()` and `release()` stay cheap for its router, whatever machine runs them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import shared_registry
from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer

TASKS = 32
PAIRS = 640
MOST_STEPS = 1750
"""About a fifth more than were counted."""
_PACKAGE = str(Path(shared_registry.__file__).parent) + os.sep


class Steps:
    """Counts the instructions of Python that the package runs, in frames that begin while this is the tracer."""

    def __init__(self) -> None:
        self.count = 0

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        self.count += event == "opcode"
        return self._step


async def test_a_pair_takes_few_steps(server: EmbeddedServer, namespace: str) -> None:
    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint("http://10.0.0.1:8000")],
        redis_timeout_seconds=10.0,
    )
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        (replica,) = registry.all()
        await registry.record_success(replica, recovery_threshold=1, latency_ms=1.0)

        async def place(pairs: int) -> None:
            for _ in range(pairs):
                lease = await registry.acquire()
                await lease.release()

        await asyncio.gather(*(place(1) for _ in range(TASKS)))  # so that the server knows the scripts
        before, steps = sys.gettrace(), Steps()
        sys.settrace(steps.trace)
        try:
            await asyncio.gather(*(place(PAIRS // TASKS) for _ in range(TASKS)))
        finally:
            sys.settrace(before)
    assert steps.count / PAIRS <= MOST_STEPS
