"""The sockets on which a router listens: one, or one for each of its workers on the same port.

The workers of one router share a port by SO_REUSEPORT: the system gives each its share of the new connections. The
option would also let two routers share a port by mistake, and share out their clients between them. Therefore the first
socket is bound without it, which fails if any program uses the port.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.proxy import tcp

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen, and what an error says about it.

    Attributes:
        host: The address or host name.
        port: The port; 0 for any free one.
        host_setting: The name of the setting with the host.
        port_setting: The name of the setting with the port.
        remedy: What to do if the port cannot be used.
    """

    host: str
    port: int
    host_setting: str
    port_setting: str
    remedy: str


@contextlib.contextmanager
def listener_at(address: ListenAddress, *, peer_timeout_seconds: float) -> Iterator[socket.socket]:
    """Listen on an address for the block.

    Raises:
        ConfigError: It cannot listen there.
    """
    with _bound(address, peer_timeout_seconds, shares_port=False) as listener:
        _listen(address, listener)
        yield listener


@contextlib.contextmanager
def listeners(config: RouterConfig, count: int) -> Iterator[list[socket.socket]]:
    """Bind and listen before anything else starts, so that a port in use is reported at once.

    Raises:
        ConfigError: It cannot listen on the configured host and port.
    """
    if count > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("workers: processes cannot share a port on this system; set 1")
    with contextlib.ExitStack() as stack:
        bound = functools.partial(_bound, peer_timeout_seconds=config.peer_timeout_seconds)
        first = stack.enter_context(bound(_clients_address(config, config.port), shares_port=False))
        sockets, address = [first], _clients_address(config, first.getsockname()[1])
        if count > 1:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sockets += [stack.enter_context(bound(address, shares_port=True)) for _ in range(count - 1)]
        for one in sockets:
            _listen(address, one)
        yield sockets


def another(config: RouterConfig, port: int) -> socket.socket:
    """Return one more listening socket on a port that this router's workers share.

    Raises:
        ConfigError: Another program has taken the port meanwhile.
    """
    address = _clients_address(config, port)
    listener = _bound(address, config.peer_timeout_seconds, shares_port=True)
    _listen(address, listener)
    return listener


def url_of(listener: socket.socket, config: RouterConfig) -> str:
    """Return the router's url for others."""
    return url_at(listener, "https" if config.tls_certificate_file else "http")


def url_at(listener: socket.socket, scheme: str) -> str:
    """Return the url of a listening socket for others. If it listens on every address, the url has this host's name."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _clients_address(config: RouterConfig, port: int) -> ListenAddress:
    remedy = "choose another port with --port, or 0 for any free one, or stop the program that uses it"
    return ListenAddress(config.host, port, "host", "port", remedy)


def _bound(address: ListenAddress, peer_timeout_seconds: float, *, shares_port: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, name = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        what = f"{address.host_setting}: cannot listen on {address.host}:{address.port} ({_reason_of(error)})"
        raise ConfigError(f"{what}; give an address of this machine") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        tcp.apply(tcp.liveness_options(peer_timeout_seconds), listener)
        listener.bind(name)
    except OSError as error:
        listener.close()
        raise _in_use(address, error) from None
    return listener


def _listen(address: ListenAddress, listener: socket.socket) -> None:
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _in_use(address, error) from None
    listener.setblocking(False)  # noqa: FBT003


def _in_use(address: ListenAddress, error: OSError) -> ConfigError:
    where = f"{address.host}:{address.port} ({_reason_of(error)})"
    return ConfigError(f"{address.port_setting}: cannot listen on {where}; {address.remedy}")


def _reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
