"""The admin address of a router: where it listens, and whether it does. Its server is imported only if it does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.extras import require_extra
from shared_registry.proxy import listening
from shared_registry.proxy.app import Work

MAX_PORT = 65_535
ABOVE_PORT = 1000
"""How far the admin port is above the clients' port, unless the settings say which it is."""


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """An admin address that is bound.

    Attributes:
        url: Its url for others; empty if the address is off.
        works: What serves it, and HAProxy's agent checks, beside a router.
    """

    url: str = ""
    works: Sequence[Work] = ()


@contextlib.contextmanager
def admin_address(config: RouterConfig, *, worker: int | None = None) -> Iterator[AdminAddress]:
    """Bind the admin address for the block. Run its works beside the router.

    Args:
        config: The router's settings.
        worker: The number of this worker, from 1, if the router is one of several that share a port. Each has an
            address of its own: the second listens on the port after that of the first.

    Raises:
        ConfigError: It cannot listen there.
        MissingExtra: A package that it needs is not installed.
    """
    with contextlib.ExitStack() as stack:
        url, works = "", list[Work]()
        port = port_of(config, worker)
        if port is not None:
            require_extra("router", "prometheus_client", "starlette", "uvicorn")
            from shared_registry.api.server import AdminServer  # noqa: PLC0415  only if there is an address

            server = AdminServer(stack.enter_context(_listener(config, "admin_port", port, _REMEDY)), config)
            url = server.url
            works.append(server.serve)
        if config.agent_port != "off":
            from shared_registry.api.agent import AgentServer  # noqa: PLC0415  only if there is one

            port = config.agent_port + (worker or 1) - 1
            if port > MAX_PORT:
                raise ConfigError(
                    f"agent_port: {config.agent_port} leaves no port for worker {worker}; set a lower one"
                )
            works.append(AgentServer(stack.enter_context(_listener(config, "agent_port", port, _AGENT_REMEDY))).serve)
        yield AdminAddress(url, works)


def _listener(
    config: RouterConfig, setting: str, port: int, remedy: str
) -> contextlib.AbstractContextManager[socket.socket]:
    place = listening.ListenAddress(config.admin_host, port, "admin_host", setting, remedy)
    return listening.listener_at(place, peer_timeout_seconds=config.peer_timeout_seconds)


def port_of(config: RouterConfig, worker: int | None) -> int | None:
    """Return the port of a router's admin address: 0 for any free one, `None` if the address is off.

    Raises:
        ConfigError: There is no such port for this worker.
    """
    if config.admin_port == "off":
        return None
    chosen = config.admin_port
    first = (config.port and config.port + ABOVE_PORT) if chosen == "auto" else chosen
    port = first and first + (worker or 1) - 1
    if port <= MAX_PORT:
        return port
    if chosen == "auto":
        return 0
    raise ConfigError(f"admin_port: {first} leaves no port for worker {worker}; set a lower one, or 0")


_REMEDY = (
    "set admin_port to another port (each worker takes one, from there), to 0 for any free one, or to off, "
    "or stop the program that uses it"
)
_AGENT_REMEDY = (
    "set agent_port to another port (each worker takes one, from there) or to off, or stop the program that uses it"
)
