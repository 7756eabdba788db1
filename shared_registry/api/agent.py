"""Answers the agent checks of HAProxy: one line about a replica for each connection.

HAProxy sends the replica's url or name, with `agent-send`, and closes after the answer. An answer has the words that
HAProxy knows: `up` or `down`; `ready`, `drain` or `maint`; a weight in percent of the server's own; `maxconn:` with the
capacity; and a reason behind `#`. Without an answer HAProxy changes nothing: so a router that does not know enough
closes the connection, and so it does if an empty line asks for no replica.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket

from shared_registry.api.pools import can_tell
from shared_registry.api.service_state import Service, service_state
from shared_registry.errors import RegistryError
from shared_registry.model import Replica, ReplicaStatus
from shared_registry.proxy.app import Router
from shared_registry.proxy.descriptors import within_limit
from shared_registry.proxy.pool import Pool

PATIENCE_SECONDS = 2.0
"""How long a client may take to send its line, and to read the answer."""
MOST_CLIENTS = 1_000
PART = 8
"""Of all descriptors, clients take at most one in so many."""
MOST_BYTES = 2_048
MOST_PERCENT = 25_600
"""The highest weight that HAProxy takes in percent; whatever that makes, it uses at most 256."""
UNKNOWN = "maint # not registered"
_END = re.compile(rb"[\r\n!]")
"""The end of a line. HAProxy's runtime commands cannot send a line feed, so an exclamation mark ends a line too."""
_UNSAFE = re.compile(r"[^ -~]+")
logger = logging.getLogger(__name__)


class AgentServer:
    """Answers on one listening socket."""

    def __init__(self, listener: socket.socket) -> None:
        """Set up. The socket is listening and non-blocking; the caller closes it."""
        self._listener = listener

    async def serve(self, router: Router) -> None:
        """Answer until cancelled; then break off what is under way."""
        clients: set[_Client] = set()
        most = within_limit(MOST_CLIENTS, PART)
        router.descriptors.others.append(lambda: len(clients))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Client(router, clients, most), sock=self._listener)
        logger.info("agent: answering HAProxy on port %d", self._listener.getsockname()[1])
        try:
            await loop.create_future()
        finally:
            server.close()
            for client in tuple(clients):
                client.abort()


class _Client(asyncio.Protocol):
    """One connection of HAProxy."""

    _transport: asyncio.Transport | None = None
    _limit: asyncio.TimerHandle | None = None

    def __init__(self, router: Router, clients: set[_Client], most: int) -> None:
        self._router = router
        self._clients = clients
        self._most = most
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if len(self._clients) >= self._most:
            transport.abort()
            return
        self._clients.add(self)
        self._limit = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        line = _END.split(self._received, maxsplit=1)
        if self._transport is None or self._transport.is_closing():
            return
        if len(line) > 1 or len(self._received) > MOST_BYTES:
            asked = line[0].decode("utf-8", "replace").strip()
            answer = answer_to(asked, self._router) if asked and len(line) > 1 else None
            if answer is not None:
                self._transport.write(f"{answer}\n".encode())
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._clients.discard(self)
        if self._limit is not None:
            self._limit.cancel()

    def abort(self) -> None:
        """Break the connection off."""
        if self._transport is not None:
            self._transport.abort()


def answer_to(asked: str, router: Router) -> str | None:
    """Return what HAProxy should do with a replica; `None` if the router does not know enough to say.

    Args:
        asked: The replica's url, `host:port` or name; behind `POOL/` at a router with pools.
        router: The router.
    """
    pool: Pool | None = router.pools.get("")
    if pool is None:
        name, _, asked = asked.partition("/")
        pool = router.pools.get(name)
    if pool is not None and not can_tell(pool):
        return None
    replica = None if pool is None else _find(asked, pool)
    return UNKNOWN if pool is None or replica is None else _state_of(replica, pool)


def _state_of(replica: Replica, pool: Pool) -> str:
    panic, record = pool.registry.panic, replica.record
    service, why = service_state(record, frozenset(one.key for one in panic.spares) if panic else ())
    reason = _UNSAFE.sub(" ", why)[:100].strip()
    said = f" # {reason}" if reason else ""
    if service is Service.DISABLED:
        return f"maint{said}"
    if service is Service.DRAINING:
        return f"{'up' if record.health.status is ReplicaStatus.HEALTHY else 'down'} drain{said}"
    if service is Service.DOWN:
        return f"down ready{said}"
    endpoint = record.endpoint
    percent = min(MOST_PERCENT, max(1, round(endpoint.weight * 100)))
    return f"up ready {percent}%{f' maxconn:{endpoint.capacity}' if endpoint.capacity else ''}"


def _find(asked: str, pool: Pool) -> Replica | None:
    if "://" not in asked:
        named = next((one for one in pool.registry.all() if one.name == asked), None)
        if named is not None:
            return named
    for url in (asked,) if "://" in asked else (f"http://{asked}", f"https://{asked}"):
        try:
            replica = pool.registry.get(url)
        except RegistryError:
            continue
        if replica is not None:
            return replica
    return None
