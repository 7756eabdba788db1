"""Probes without a task, and replicas that send whatever a test wants."""

from __future__ import annotations

import asyncio

from shared_registry.probing import HttpProber, ProbeOutcome
from tests.support.scripted_server import LONG, OK, Peer, Script

RESPONSES: dict[str, bytes | None] = {
    "fine": OK,
    "unavailable": b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\n\r\nok",
    "of old": b"HTTP/1.0 200 OK\r\n\r\nok",
    "too short": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    "without an end": b"HTTP/1.1 200 OK\r\nContent-Le",
    "nothing": b"",
    "a reset": None,
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
}


async def prompt(prober: HttpProber, url: str, timeout: float = LONG, *, fresh: bool = False) -> ProbeOutcome:
    """Probe without a task."""
    ended: asyncio.Future[ProbeOutcome | float] = asyncio.get_running_loop().create_future()
    assert prober.begin(url, timeout=timeout, ended=ended.set_result, fresh=fresh) is not None
    outcome = await ended
    assert isinstance(outcome, ProbeOutcome)
    return outcome


def sending(response: bytes | None) -> Script:
    """Return what a replica does that sends this, and closes the connection; `None` resets it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if response is None:
            peer.reset()
            return
        await peer.send(response)

    return script
