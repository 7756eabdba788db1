"""Programs beside a test: started with settings of its own, asked over HTTP until they serve, gone afterwards."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

from shared_registry.demo import replica
from tests.support.command import ROOT, environment

EXAMPLES = ROOT / "examples"
INIT = json.dumps({"type": "session_init_v2", "client_id": "test"})
SECONDS = 20.0
_taken: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, outside the range of outgoing connections.

    It is this process's own until its end: otherwise another test could take it before a program listens there.
    """
    while True:
        with replica.listen("127.0.0.1", 0) as listener:
            port: int = listener.getsockname()[1]
        if port not in _taken:
            with suppress(OSError):
                fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                _taken.add(port)
                return port


@functools.cache
def _locks() -> int:
    """Open the file of which a process of this user's tests locks a byte for each port that it takes."""
    path = Path(tempfile.gettempdir()) / f"shared-registry-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def program(*argv: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program with nothing but these registry settings in its environment."""
    process = subprocess.Popen(
        [sys.executable, *argv], cwd=ROOT, env=environment(**variables), stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
        assert process.poll() in {None, -signal.SIGTERM}, f"{argv} has ended by itself, with {process.returncode}"
    finally:
        process.kill()
        process.communicate()


@contextmanager
def mock_replica(name: str) -> Iterator[str]:
    """Run a mock replica and yield its url."""
    with program("-I", str(replica.__file__), "--name", name) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"


def answer(url: str, *, method: str = "GET", status: int = 200, **asked: Any) -> httpx.Response:
    """Ask until the answer has this status; fail if that takes too long."""
    deadline = time.monotonic() + SECONDS
    last: object = None
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            last = got = httpx.request(method, url, trust_env=False, **asked)
            if got.status_code == status:
                return got
        time.sleep(0.02)
    raise AssertionError(f"{url} did not answer {status} within {SECONDS:g} s; last was {last}")


def session(port: int) -> tuple[str, bytes]:
    """Open a session through a router; return the name of the replica that has it, and its first frame."""
    with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None) as connection:
        connection.send(INIT)
        ready = json.loads(connection.recv(SECONDS))
        assert ready["type"] == "session_ready", ready
        frame = connection.recv(SECONDS)
        assert isinstance(frame, bytes)
        return ready["replica"], frame
