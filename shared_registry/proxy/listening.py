"""The sockets on which a router listens: one, or one for each of its workers on the same port.

The workers of one router share a port by SO_REUSEPORT: the system gives each its share of the new connections. The
option would also let two routers share a port by mistake, and share out their clients between them. Therefore the first
socket is bound without it, which fails if any program uses the port.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.proxy import tcp

BACKLOG = 2048


@contextlib.contextmanager
def listeners(config: RouterConfig, count: int) -> Iterator[list[socket.socket]]:
    """Bind and listen before anything else starts, so that a port in use is reported at once.

    Raises:
        ConfigError: It cannot listen on the configured host and port.
    """
    if count > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("workers: processes cannot share a port on this system; set 1")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_bound(config, config.port, shares_port=False))
        sockets, port = [first], first.getsockname()[1]
        if count > 1:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sockets += [stack.enter_context(_bound(config, port, shares_port=True)) for _ in range(count - 1)]
        for one in sockets:
            _listen(config, one)
        yield sockets


def another(config: RouterConfig, port: int) -> socket.socket:
    """Return one more listening socket on a port that this router's workers share.

    Raises:
        ConfigError: Another program has taken the port meanwhile.
    """
    listener = _bound(config, port, shares_port=True)
    _listen(config, listener)
    return listener


def url_of(listener: socket.socket, config: RouterConfig) -> str:
    """Return the router's url for others. If it listens on every address, the url has this host's name."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
    scheme = "https" if config.tls_certificate_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _bound(config: RouterConfig, port: int, *, shares_port: bool) -> socket.socket:
    where = f"{config.host}:{port}"
    try:
        found = socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"host: cannot listen on {where} ({_reason_of(error)}); give an address of this machine"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        tcp.apply(tcp.liveness_options(config.peer_timeout_seconds), listener)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _in_use(where, error) from None
    return listener


def _listen(config: RouterConfig, listener: socket.socket) -> None:
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _in_use(f"{config.host}:{listener.getsockname()[1]}", error) from None
    listener.setblocking(False)  # noqa: FBT003


def _in_use(where: str, error: OSError) -> ConfigError:
    remedy = "choose another port with --port, or 0 for any free one, or stop the program that uses it"
    return ConfigError(f"port: cannot listen on {where} ({_reason_of(error)}); {remedy}")


def _reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
