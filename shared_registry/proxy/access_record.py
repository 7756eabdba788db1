"""What the access log, the metrics and the traces tell of one request, collected while the request is served. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from shared_registry.proxy.session_trace import SessionTrace
    from shared_registry.proxy.traffic import Traffic

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
    """The times and the fate of one request. Times are on the event loop's clock, unless stated otherwise.

    Attributes:
        began_at: When the request's head was complete, in seconds since the epoch; 0 without an access log.
        place: What the router did with the request.
        session: The session's name; only its digest is logged.
        started_at: When the request's head was complete, on the event loop's clock.
        answered_at: When the client was sent the head of its response; `None` if it was sent none.
        ended_at: When the request ended.
        replica: The url of the last replica that was tried.
        attempts: The number of replicas that were tried.
        status: The HTTP status that the client was sent.
        close_code: How a WebSocket session was closed.
        ended: Why it ended; `None` while it has not.
        error: The code of the router's own error that the client was sent.
        traffic: Counts the request when it has ended; `None` if it is not counted.
        trace: Is told of each step; `None` if the request is not traced.
    """

    __slots__ = (
        "_placed",
        "answered_at",
        "attempts",
        "began_at",
        "close_code",
        "ended",
        "ended_at",
        "error",
        "place",
        "replica",
        "session",
        "started_at",
        "status",
        "trace",
        "traffic",
    )

    def __init__(self, began_at: float, now: float, traffic: Traffic | None = None) -> None:
        self.began_at = began_at
        self.place: RecordedPlace | None = None
        self.session: str | None = None
        self.replica: str | None = None
        self.attempts = 0
        self.status: int | None = None
        self.close_code: int | None = None
        self.ended: Ended | None = None
        self.error: str | None = None
        self.traffic = traffic
        self.started_at = now
        self.trace: SessionTrace | None = None
        self._placed: float | None = None
        self.answered_at: float | None = None
        self.ended_at = now

    def try_replica(self, url: str, now: float) -> None:
        """A replica is going to be tried; in the end the last one counts."""
        self.replica = url
        self.attempts += 1
        self._placed = now
        if self.trace is not None:
            self.trace.try_replica(url)

    def answer(self, status: int, now: float) -> None:
        """The client is sent the head of its response."""
        self.status = status
        self.answered_at = now
        if self.trace is not None:
            self.trace.answer(status)

    def end(self, ended: Ended, now: float, *, error: str | None = None, close_code: int | None = None) -> None:
        """The request has ended. The first reason counts."""
        if self.ended is not None:
            return
        self.ended = ended
        self.error = error
        self.close_code = close_code
        self.ended_at = now

    @property
    def wait_ms(self) -> float | None:
        """The time until the last replica was chosen: in the queue, and at the replicas before it."""
        return self._since(self._placed)

    @property
    def first_byte_ms(self) -> float | None:
        """The time until the client was sent the head of its response."""
        return self._since(self.answered_at)

    @property
    def duration_ms(self) -> float:
        """The whole time."""
        return round((self.ended_at - self.started_at) * 1000, 3)

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else round((moment - self.started_at) * 1000, 3)
