"""A real Redis or Valkey server of one's own, for tests, demos and local clusters of routers.

    with EmbeddedServer() as server:
        redis.asyncio.Redis.from_url(server.url)

Not for production: it listens on 127.0.0.1 only, keeps nothing on disk unless told to, and ends with this process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.embedded.server_binary import find_server_binary
from shared_registry.errors import ConfigError, StoreUnavailable, UsageError

HOST = "127.0.0.1"
DEFAULT_CONFIG: Mapping[str, str | int] = {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
OWN_SETTINGS = frozenset({"bind", "port", "dir", "daemonize", "logfile"})
"""What `config` may not set: the server would be out of reach, out of sight or out of control."""

_FIRST_PORT, _LAST_PORT = 10_000, 19_999
_POLL_SECONDS = 0.01
_GRACE_SECONDS = 5.0
_LOG_TAIL_BYTES = 2_000


class EmbeddedServer:
    """A server process that this process starts, owns and takes along when it ends, be it by SIGKILL.

    `start()` after `stop()` or `kill()` brings the server back on the same port and data directory, with what it had
    persisted (nothing by default). All calls block, `start()` and `stop()` for up to seconds: from asyncio use
    `asyncio.to_thread`. Not safe for concurrent use; a forked copy of this object controls nothing.
    """

    def __init__(
        self,
        *,
        binary: Path | None = None,
        port: int | None = None,
        data_dir: Path | None = None,
        config: Mapping[str, str | int] | None = None,
        startup_seconds: float = 10.0,
    ) -> None:
        """Describe a server; nothing is started yet.

        Args:
            binary: The server program; by default what `find_server_binary()` finds.
            port: The TCP port; by default a free one, which the server then keeps over restarts.
            data_dir: Where it keeps its log, its configuration and what it persists; created where missing and never
                removed. By default a temporary directory that `with` or this object's end removes; a process that
                is killed leaves it to the system's cleaning.
            config: More settings, by their names and with their values as in redis.conf. They win over the defaults:
                no persistence, no eviction.
            startup_seconds: How long `start()` may take, loading of persisted data included.

        Raises:
            ConfigError: There is no server program, or `config` names one of `OWN_SETTINGS`.
        """
        refused = sorted(name for name in config or {} if name.lower() in OWN_SETTINGS)
        if refused:
            raise ConfigError(f"config: {', '.join(refused)} cannot be set; use the arguments port and data_dir")
        self._binary = (binary or find_server_binary()).absolute()  # it starts in another directory
        self._port = port
        self._config = {**DEFAULT_CONFIG, **{name.lower(): value for name, value in (config or {}).items()}}
        self._startup_seconds = startup_seconds
        self._process: BoundProcess | None = None
        self._discard: weakref.finalize[..., EmbeddedServer] | None = None
        if data_dir is None:
            data_dir = Path(tempfile.mkdtemp(prefix="shared-registry-"))
            self._discard = weakref.finalize(self, _remove_directory, data_dir, os.getpid())
        self._data_dir = data_dir.absolute()

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known from the first `start()` on."""
        if self._port is None:
            raise UsageError("the embedded server has no port yet; call start() first")
        return self._port

    @property
    def url(self) -> str:
        """The Redis url of its database 0, without any password that `config` sets."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, to send signals to; also that of the last run while it is down."""
        if self._process is None:
            raise UsageError("the embedded server has no process yet; call start() first")
        return self._process.pid

    @property
    def data_dir(self) -> Path:
        """Where the server persists, and writes `server.log`."""
        return self._data_dir

    @property
    def is_running(self) -> bool:
        """Whether its process lives; true for one that SIGSTOP holds."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers and has loaded its data.

        Raises:
            UsageError: It is running.
            StoreUnavailable: It did not come up in time. The message ends with its log; no process is left behind.
        """
        if self.is_running:
            raise UsageError("the embedded server is already running; call stop() or kill() first")
        self._data_dir.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self._startup_seconds
        while True:
            port = self._port or _free_port()
            if self._start_on(port, deadline):
                self._port = port
                return
            if self._port is not None:
                raise StoreUnavailable(f"port {port} is taken by another process; free it or choose another port")

    def stop(self) -> None:
        """End the server as an operator would: SIGTERM, so that it saves what it persists. Twice is harmless."""
        if self._process is not None:
            self._process.stop(_GRACE_SECONDS)

    def kill(self) -> None:
        """End the server as a crash would: SIGKILL. Returns when it is gone; twice is harmless."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the server and remove its temporary directory."""
        self.stop()
        if self._discard is not None:
            self._discard()

    def _start_on(self, port: int, deadline: float) -> bool:
        """Return whether our server runs on `port`; false where another process was faster to take it."""
        settings = {**self._config, "bind": HOST, "port": port}
        conf = self._data_dir / "server.conf"
        conf.touch(mode=0o600)  # it may hold a password
        conf.write_text("".join(f"{name} {_conf_value(value)}\n" for name, value in settings.items()))
        with (self._data_dir / "server.log").open("ab") as log:
            log_start = log.tell()
            try:
                self._process = BoundProcess([self._binary, conf], cwd=self._data_dir, output=log)
            except OSError as error:
                raise StoreUnavailable(f"no process could be started for {self._binary}: {error}") from error
        try:
            is_ours = self._wait_until_ready(self._process, port, deadline, log_start)
        except BaseException:
            self._process.kill()
            raise
        if not is_ours:
            self._process.kill()
        return is_ours

    def _wait_until_ready(self, process: BoundProcess, port: int, deadline: float, log_start: int) -> bool:
        password = self._config.get("requirepass")
        while time.monotonic() < deadline:
            status = process.poll()
            if status is not None:
                log = self._log_tail(log_start)
                if "Address already in use" in log:
                    return False
                raise StoreUnavailable(f"{self._binary} ended at once, with status {status}. Its log:\n{log}")
            info = _ask_info(port, None if password is None else str(password))
            if info is not None and info.get("process_id") != process.pid:
                return False
            if info is not None and not info.get("loading"):
                return True
            time.sleep(_POLL_SECONDS)
        log = self._log_tail(log_start)
        raise StoreUnavailable(f"{self._binary} did not answer within {self._startup_seconds:g} s. Its log:\n{log}")

    def _log_tail(self, start: int) -> str:
        written = (self._data_dir / "server.log").read_bytes()[start:]
        return written[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _conf_value(value: str | int) -> str:
    return '""' if value == "" else str(value)


def _free_port() -> int:
    """Return a port that nobody listens on, from below the range that systems give to outgoing connections.

    One from that range (which binding port 0 gives) would not stay free while the server is down: a client that
    keeps trying to reconnect on loopback in the end gets the very port it calls as its own, and is connected to
    itself.
    """
    for _ in range(100):
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT + 1)
        with socket.socket() as trial:
            try:
                trial.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StoreUnavailable(f"found no free port between {_FIRST_PORT} and {_LAST_PORT} on {HOST}")


def _ask_info(port: int, password: str | None) -> dict[str, Any] | None:
    """Return what the server on `port` says of itself, `None` where nobody answers."""
    client = Redis(
        host=HOST,
        port=port,
        password=password,
        protocol=2,
        socket_timeout=1.0,
        socket_connect_timeout=1.0,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        info: dict[str, Any] = client.info()
    except RedisError:
        return None
    finally:
        client.close()
    return info


def _remove_directory(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of this process must leave it alone
        shutil.rmtree(path, ignore_errors=True)
