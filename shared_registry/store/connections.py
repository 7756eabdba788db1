"""What all connections of a registry have in common: their name at the server, and TLS files that are read again.

It adds to redis-py's connection classes what they lack, by public methods.
"""

from __future__ import annotations

import contextlib
import functools
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,  # noqa: A004  redis-py's
    NoPermissionError,
    ResponseError,
)

from shared_registry.aio.time_limit import time_limit
from shared_registry.errors import ConfigError
from shared_registry.store.redis_url import RedisAddress, RedisKind

if TYPE_CHECKING:
    _Base = SSLConnection
else:
    _Base = object

NAME_PREFIX = "shared-registry"
LONG_SECONDS = 3600.0
HANDSHAKE_SHARE = 0.8
"""The share of a call's time in which a TLS connection must be made, so that the call can say what went wrong."""
_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)
_NO_NAME = re.compile(r"[^!-~]")
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_VERIFY_MODES = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_Stamp = tuple[tuple[int, int, int], ...]


def naming(name: str) -> Callable[[Any], Awaitable[None]]:
    """Return redis-py's `redis_connect_func` that gives connections a name, which `CLIENT LIST` shows.

    A user who may not run `CLIENT SETNAME` gets connections without a name.

    Args:
        name: The name of the router; empty for others.
    """
    parts = [NAME_PREFIX, _NO_NAME.sub("-", name)]
    return functools.partial(_connect_as, ":".join(filter(None, parts)))


async def _connect_as(name: str, connection: Any) -> None:
    try:
        await connection.on_connect()
        await connection.send_command("CLIENT", "SETNAME", name)
        with contextlib.suppress(ResponseError):
            await connection.read_response()
    except _REFUSALS:
        raise
    except ConnectionError as error:
        if "SSL" in str(error):
            raise
        raise ConnectionError(f"{error}; the server closed a new connection: {_reason_to_close(connection)}") from error


def _reason_to_close(connection: Any) -> str:
    if not isinstance(connection, SSLConnection):
        return "if it expects TLS, write rediss://"
    if connection.certfile is None:
        return "if it asks for a client certificate, name one by ssl_certfile and ssl_keyfile"
    return "it may not accept the client certificate"


class _TlsConnection(_Base):
    """Mixed in before a TLS connection class of redis-py.

    Versions of that class know different options, and read their files only once for each connection object. And a
    server without TLS does not answer a handshake at all, which would look like an outage.
    """

    tls: Mapping[str, Any]
    handshake_seconds: float
    _stamp: _Stamp | None = None

    async def connect(self) -> None:
        """Connect. The files are read again if they have changed since they were last read."""
        if not self.is_connected:
            stamp = tuple(_stamps(self.tls))
            if stamp != self._stamp:
                self.ssl_context.context = _context(self.tls)
                self._stamp = stamp
        try:
            async with time_limit(self.handshake_seconds):
                await super().connect()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            where = f"{self.host}:{self.port}"
            raise ConnectionError(
                f"no TLS connection to {where} within {self.handshake_seconds:g} s: the server is away, or does "
                "not speak TLS at this port (if so, write redis://)"
            ) from error

    async def disconnect(self, nowait: bool = False, *args: Any, **options: Any) -> None:  # noqa: FBT001, FBT002  redis-py's
        """Close the connection without the goodbye of TLS.

        asyncio would keep the socket open for up to 30 s until the server answers the goodbye, so that a server that
        hangs would cost a descriptor for every failed call.
        """
        writer = self._writer
        await super().disconnect(True, *args, **options)  # noqa: FBT003
        if writer is None:
            return
        writer.transport.abort()
        if not nowait:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _context(tls: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    verify_mode = _VERIFY_MODES[tls.get("ssl_cert_reqs", "required")]
    context.check_hostname = verify_mode is not ssl.CERT_NONE and tls.get("ssl_check_hostname", True)
    context.verify_mode = verify_mode
    if "ssl_certfile" in tls:
        # Without a password, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile"), tls.get("ssl_password", ""))
    if "ssl_ca_certs" in tls or "ssl_ca_path" in tls:
        context.load_verify_locations(tls.get("ssl_ca_certs"), tls.get("ssl_ca_path"))
    return context


def _stamps(tls: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    for name in _FILES:
        try:
            found = Path(tls[name]).stat() if name in tls else None
        except OSError:
            found = None
        yield (found.st_mtime_ns, found.st_size, found.st_ino) if found else (0, 0, 0)


def over_tls(base: type[Any], tls: Mapping[str, Any], *, timeout_seconds: float = LONG_SECONDS) -> type[Any]:
    """Return a connection class of redis-py, improved if it is one for TLS.

    Args:
        base: The class.
        tls: See `RedisAddress.tls`.
        timeout_seconds: The maximum time of a call, of which connecting is a part. Without it, connecting has no limit
            here, because it does more, such as asking sentinels.
    """
    if not issubclass(base, SSLConnection):
        return base
    members = {"tls": tls, "handshake_seconds": timeout_seconds * HANDSHAKE_SHARE}
    return type(base.__name__, (_TlsConnection, base), members)


def connection_class(address: RedisAddress, *, timeout_seconds: float) -> type[Any]:
    """Return the class of connections to a server of this address."""
    if address.kind is RedisKind.SOCKET:
        return UnixDomainSocketConnection
    return over_tls(SSLConnection, address.tls, timeout_seconds=timeout_seconds) if address.is_tls else Connection


def check_files(address: RedisAddress) -> None:
    """Read the TLS files once.

    Raises:
        ConfigError: A file cannot be read, or is not what it should be.
    """
    for names in (("ssl_ca_certs",), ("ssl_ca_path",), ("ssl_certfile", "ssl_keyfile", "ssl_password")):
        given = {name: address.tls[name] for name in names if name in address.tls}
        if not given:
            continue  # a context reads the system's certificates, which takes some 20 ms
        try:
            for name in given.keys() & set(_FILES):
                Path(given[name]).stat()
            _context(given)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            shown = " with ".join(f"{name}={text}" for name, text in given.items() if name in _FILES)
            raise ConfigError(f"redis_url: {shown} cannot be used: {reason}") from None
