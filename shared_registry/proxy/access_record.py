"""What access logs and traces tell of one request, collected while the request is served. Pure.

What metrics count is in the `Exchange` itself, because it is noted of every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from shared_registry.proxy.session_trace import SessionTrace

Ended = Literal[
    "done",
    "client_left",
    "client_closed",
    "client_silent",
    "client_error",
    "replica_closed",
    "replica_broke",
    "replica_silent",
    "replica_lost",
    "refused",
    "router_stopped",
    "timed_out",
    "router_failed",
    "not_begun",
]
"""Why a request or a session ended; `docs/access-log.md` explains each."""


RecordedPlace = Literal["lease", "any", "none", "page"]
"""What the router did: gave a slot, chose any replica without one, refused the path, or answered with an own page."""


class AccessRecord:
    """What only an access log or a trace tells of one request.

    Attributes:
        began_at: When the request's head was complete, in seconds since the epoch; 0 without an access log.
        place: What the router did with the request.
        session: The session's name; only its digest is logged.
        replica: The url of the last replica that was tried.
        attempts: The number of replicas that were tried.
        placed_at: When the last replica was chosen, on the event loop's clock; `None` if none was.
        close_code: How a WebSocket session was closed.
        error: The code of the router's own error that the client was sent.
        trace: Is told of each step; `None` if the request is not traced.
    """

    __slots__ = (
        "attempts",
        "began_at",
        "close_code",
        "error",
        "place",
        "placed_at",
        "replica",
        "session",
        "trace",
    )

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.place: RecordedPlace | None = None
        self.session: str | None = None
        self.replica: str | None = None
        self.attempts = 0
        self.placed_at: float | None = None
        self.close_code: int | None = None
        self.error: str | None = None
        self.trace: SessionTrace | None = None

    def try_replica(self, url: str, session: str | None, now: float) -> None:
        """A replica is going to be tried for a session of that name; in the end the last one counts."""
        self.session = session
        self.replica = url
        self.attempts += 1
        self.placed_at = now
        if self.trace is not None:
            self.trace.try_replica(url)
