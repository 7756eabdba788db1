"""Probes without a task, and replicas that send whatever a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from shared_registry.probing import HttpProber, ProbeOutcome
from shared_registry.probing.prompt import PromptProbe
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


Ended = Callable[[ProbeOutcome | float], None]


def begin_prompt(
    prober: HttpProber, url: str, ended: Ended, timeout: float = LONG, *, fresh: bool = False
) -> PromptProbe | None:
    """Begin a probe without a task. Return `None` if it needs one."""

    def on_well(probes: Sequence[PromptProbe]) -> None:
        for probe in probes:
            ended(probe.outcome)

    probes = prober.prompt_probes(timeout=timeout, on_well=on_well, on_ended=lambda _, outcome: ended(outcome))
    probe = probes.of(url, None) if probes is not None else None
    return probe if probe is not None and probe.begin(fresh=fresh) else None


async def prompt(prober: HttpProber, url: str, timeout: float = LONG, *, fresh: bool = False) -> ProbeOutcome:
    """Probe without a task."""
    ended: asyncio.Future[ProbeOutcome | float] = asyncio.get_running_loop().create_future()
    assert begin_prompt(prober, url, ended.set_result, timeout, fresh=fresh) is not None
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
