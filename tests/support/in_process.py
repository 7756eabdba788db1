"""The command run inside the test's process: the same entry point, arguments and exit codes, without the start-up."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from unittest import mock

from shared_registry.cli.app import main
from tests.support.command import Done, environment

Command = Callable[..., Done]
CHANGED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Terminal(io.StringIO):
    """What somebody types."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Put back what `serve` changes of its process: what signals do, and how many files may be open."""
    handlers = {number: signal.getsignal(number) for number in CHANGED}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def invoke(*words: str, typed: str | None = None, piped: str = "", **variables: str) -> Done:
    """Run the command to its end; `typed` on a terminal, otherwise on none, with `piped` on standard input."""
    out, err = io.StringIO(), io.StringIO()
    package = logging.getLogger("shared_registry")
    before = package.handlers, package.propagate, package.level
    code: object = 0
    with (
        as_before() if "serve" in words else contextlib.nullcontext(),  # signals belong to the main thread
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        mock.patch.object(sys, "argv", ["shared-registry", *words]),
        mock.patch.object(sys, "stdin", io.StringIO(piped) if typed is None else Terminal(typed)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            package.handlers, package.propagate, package.level = before
    assert isinstance(code, int | None)
    return Done(code or 0, out.getvalue(), err.getvalue())
