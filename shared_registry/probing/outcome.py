"""The interface of a probe, and the result of one."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from shared_registry.model import Evidence
from shared_registry.probing.own_trouble import OwnTrouble


class HttpProbe(Protocol):
    """An asynchronous callable that probes one url. Applications may supply their own."""

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        """Probe once.

        Args:
            url: The replica's url with the health check's path, such as `http://127.0.0.1:8000/health`.
            timeout: The time limit of the whole probe, in seconds.

        Returns:
            The latency in milliseconds, and the reason of a failure, or `None` for a success. An exception is a failure
            as well. An error that is this router's own trouble, such as "too many open files", is not counted.
        """


class ProbeOutcome(NamedTuple):
    """The result of one guarded probe.

    Attributes:
        latency_ms: The duration of the probe, in milliseconds.
        error: The reason of a failure: one line of at most 200 printable characters. `None` otherwise.
        trouble: The router's own trouble that prevented the probe, which then neither succeeded nor failed.
        address: The IP address that was probed last; empty if it is not known.
        looked_up_at: When the name's addresses were requested with which the connection was made, on the monotonic
            clock: the resolver responded after that. Infinity if there was nothing to look up.
    """

    latency_ms: float
    error: str | None = None
    trouble: OwnTrouble | None = None
    address: str = ""
    looked_up_at: float = math.inf

    def named_address(self, url: str) -> str:
        """Return the address that was probed if the url names its host otherwise; empty if there is nothing to add."""
        return "" if self.address and self.address in url else self.address

    @property
    def evidence(self) -> Evidence:
        """What the probe says of the replica."""
        if self.trouble is not None:
            return Evidence.UNSURE
        return Evidence.OK if self.error is None else Evidence.FAILED
