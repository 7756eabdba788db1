"""The seam for traces: what a trace of one request or session is told while the request is served.

The router itself knows nothing of a tracing library; `telemetry/tracing.py` makes spans of these calls. They are
synchronous, and must neither block nor raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared_registry.http1.fields import Headers
    from shared_registry.proxy.access_record import AccessRecord
    from shared_registry.proxy.exchange import Exchange


class SessionTrace(Protocol):
    """The trace of one request or session. A session may try several replicas, one after another."""

    def wait(self) -> None:
        """The session waits in the queue. Called again each time that its position changes."""

    def try_replica(self, url: str) -> None:
        """A replica was chosen, and is going to be tried."""

    def connect(self) -> None:
        """The replica was reached; the request is going to be sent."""

    def fail_attempt(self, reason: str) -> None:
        """The replica did not take the session."""

    def answer(self, status: int) -> None:
        """The client is sent the head of its response."""

    def stream(self) -> None:
        """A WebSocket session begins. Its client may have been answered long before, to wait in the queue."""

    def end(self, exchange: Exchange) -> None:
        """The request or session has ended, and its record is complete."""

    def pass_on(self, fields: Headers) -> list[tuple[bytes, bytes]]:
        """Return the headers for the replica, with the trace context of this attempt in place of the client's."""


class Tracing(Protocol):
    """Makes the traces of a router."""

    def begin(self, exchange: Exchange, record: AccessRecord) -> SessionTrace:
        """Begin the trace of a request whose head is complete."""
