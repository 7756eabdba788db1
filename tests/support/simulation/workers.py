"""Divides work among processes that are forked from this one, each with all that was imported and compiled."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from selectors import EVENT_READ, DefaultSelector
from typing import BinaryIO


class WorkerFailed(Exception):
    """A process ended before its work was done. It has printed why."""


def results_of(workers: int, work: Callable[[int], Iterator[str]]) -> Generator[str, None, None]:
    """Yield the results of all workers, in the order in which they come. Closing the iterator kills the workers.

    Args:
        workers: How many processes there are. A single one is this process.
        work: Given the number of a worker, yields its results.

    Raises:
        WorkerFailed: A worker has failed.
    """
    if workers == 1:
        yield from work(0)
        return
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(DefaultSelector())
        for number in range(workers):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _work(writer, work(number))
            os.close(writer)
            stack.callback(_end, pid)
            selector.register(stack.enter_context(os.fdopen(reader, "rb", buffering=0)), EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                result = _read(key.fileobj)  # type: ignore[arg-type]
                if result is None:
                    selector.unregister(key.fileobj)
                else:
                    yield result


def _work(writer: int, results: Iterator[str]) -> None:
    """Do the work of a worker, and end the process."""
    try:
        for result in results:
            data = result.encode()
            _write(writer, len(data).to_bytes(8, "big", signed=True) + data)
        _write(writer, (-1).to_bytes(8, "big", signed=True))
    except BaseException:  # noqa: BLE001  the process ends here whatever happens
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)  # only this closes the pipe: a worker is not killed before it has printed why it failed


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _read(pipe: BinaryIO) -> str | None:
    """Return one result; `None` after the last."""
    size = int.from_bytes(_read_exactly(pipe, 8), "big", signed=True)
    return None if size < 0 else _read_exactly(pipe, size).decode()


def _read_exactly(pipe: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := pipe.read(size - len(data))):
            raise WorkerFailed
        data += more
    return data


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # until it is waited for, its id is not given to another process
    os.waitpid(pid, 0)
