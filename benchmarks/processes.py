"""Child processes of the benchmarks: they answer questions, one line of JSON each, and end when nobody asks any more.

A child's standard input is a pipe that only this process holds. Its end is the end of the child, so that nothing is
left behind even where this process is killed. A child runs in a session of its own: Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LONGEST_LINE = 2**22
START_SECONDS = 30.0
STOP_SECONDS = 5.0

Answer = dict[str, Any]


class Child:
    """A module of this package as a process. `async with Child("router_process", settings) as router`."""

    def __init__(self, module: str, settings: Mapping[str, Any], *, start_seconds: float = START_SECONDS) -> None:
        """Describe it; `async with` starts it and waits so long for its first line, kept in `ready`."""
        self._module = module
        self._start_seconds = start_seconds
        self._settings = settings
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process
        self.ready: Answer = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"{__package__}.{self._module}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._start_seconds):
                self.ready = await self.ask(dict(self._settings))
        except BaseException:
            self.kill()
            await self._process.wait()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> None:
        """Let it end by itself, since nobody asks any more. Twice is harmless."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, question: object) -> Answer:
        """Return its answer. Questions asked meanwhile wait for their turn."""
        async with self._lock:
            if self._process.stdin is None or self._process.stdout is None:
                raise RuntimeError(f"{self._module} has no pipes")
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with status {await self._process.wait()}")
        answer: Answer = json.loads(line)
        return answer

    def terminate(self) -> None:
        """Ask it to end, as an operator would."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


async def serve(questions: Mapping[str, Callable[[], Awaitable[Answer]]], lines: asyncio.StreamReader) -> None:
    """Answer the parent's questions until it is gone, or SIGTERM comes; an answer that is awaited then is dropped."""
    answering = asyncio.create_task(_answer(questions, lines))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, answering.cancel)
    await asyncio.wait((answering,))
    if not answering.cancelled():
        answering.result()


async def _answer(questions: Mapping[str, Callable[[], Awaitable[Answer]]], lines: asyncio.StreamReader) -> None:
    next_line = asyncio.create_task(lines.readline())
    while line := await next_line:
        next_line = asyncio.create_task(lines.readline())
        answer = asyncio.ensure_future(questions[json.loads(line)]())
        # The parent asks one question at a time: a line that comes before the answer is the end.
        await asyncio.wait((answer, next_line), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return
        write_answer(answer.result())


async def parent_input() -> asyncio.StreamReader:
    """Return standard input as a stream."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def until(is_true: Callable[[], bool], *, poll_seconds: float) -> None:
    """Wait for something that tells nobody when it happens."""
    while not is_true():  # noqa: ASYNC110
        await asyncio.sleep(poll_seconds)


def write_answer(answer: Answer) -> None:
    """Write one line to the parent."""
    print(json.dumps(answer), flush=True)
