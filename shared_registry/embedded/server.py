"""Runs a real Redis or Valkey server as a child process, for tests, demos and local clusters of routers.

    with EmbeddedServer() as server:
        redis.asyncio.Redis.from_url(server.url)

Not for production: the server listens only on 127.0.0.1, persists nothing by default, and ends with this process.
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
"""Settings that `config` may not change, because this class needs them to reach and to control the server."""

_FIRST_PORT, _LAST_PORT = 10_000, 19_999
_POLL_SECONDS = 0.01
_GRACE_SECONDS = 5.0
_LOG_TAIL_BYTES = 2_000


class EmbeddedServer:
    """A server process that this process starts and owns. It ends with this process, even after SIGKILL.

    `start()` after `stop()` or `kill()` starts the server again on the same port and data directory, with the data that
    it had persisted (none by default). All calls block; `start()` and `stop()` may take seconds. From asyncio use
    `asyncio.to_thread`. Not safe for concurrent use. A copy of this object in a forked process controls nothing.
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
        """Describe a server. Nothing is started yet.

        Args:
            binary: The server program; by default the result of `find_server_binary()`.
            port: The TCP port; by default a free one, which the server keeps over restarts.
            data_dir: The directory for the log, the configuration and persisted data. It is created if it is missing,
                and never removed. The default is a temporary directory, which is removed at the end of `with` or of
                this object. If this process is killed, the temporary directory stays.
            config: More settings, with names and values as in redis.conf. They override the defaults, which are no
                persistence and no eviction.
            startup_seconds: The time limit of `start()`, including the loading of persisted data.

        Raises:
            ConfigError: There is no server program, or `config` names one of `OWN_SETTINGS`.
        """
        refused = sorted(name for name in config or {} if name.lower() in OWN_SETTINGS)
        if refused:
            raise ConfigError(f"config: {', '.join(refused)} cannot be set; use the arguments port and data_dir")
        self._binary = (binary or find_server_binary()).absolute()  # the server starts in another directory
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
        """The TCP port on 127.0.0.1. It is known from the first `start()` on, unless it was given."""
        if self._port is None:
            raise UsageError("the embedded server has no port yet; call start() first")
        return self._port

    @property
    def url(self) -> str:
        """The Redis url of the server's database 0. It does not contain a password, even if `config` sets one."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, for sending signals. While the server is down, the id of its last run."""
        if self._process is None:
            raise UsageError("the embedded server has no process yet; call start() first")
        return self._process.pid

    @property
    def data_dir(self) -> Path:
        """The directory with the server's persisted data and its log, `server.log`."""
        return self._data_dir

    @property
    def is_running(self) -> bool:
        """Whether the server's process exists; also true while SIGSTOP has stopped it."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and wait until it responds and has loaded its data.

        Raises:
            UsageError: The server is already running.
            StoreUnavailable: The server did not start, did not respond in time, or its port is in use. If the server
                was started, the message ends with its log. No process is left behind.
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
                raise StoreUnavailable(f"port {port} is in use by another process; free it or choose another port")

    def stop(self) -> None:
        """End the server by SIGTERM, so that it saves the data that it persists. Twice is harmless."""
        if self._process is not None:
            self._process.stop(_GRACE_SECONDS)

    def kill(self) -> None:
        """End the server by SIGKILL, like a crash, and return after it has ended. Twice is harmless."""
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
        """Start the server on `port`. Return whether it runs there; false if another process has taken the port."""
        settings = {**self._config, "bind": HOST, "port": port}
        conf = self._data_dir / "server.conf"
        conf.touch(mode=0o600)  # it may contain a password
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
    """Return a free port, from below the range that systems use for outgoing connections.

    Binding port 0 would return one from that range, which might not stay free while the server is down. A client that
    keeps trying to reconnect on loopback could get the server's port as its own local port, and would be connected to
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
    """Return the reply to INFO of the server on `port`; `None` if there is no reply."""
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
    if os.getpid() == owner:  # a fork of this process must not remove it
        shutil.rmtree(path, ignore_errors=True)
