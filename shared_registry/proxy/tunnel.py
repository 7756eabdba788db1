"""A WebSocket session between a client and a replica: bytes are passed on as they come, in both directions.

Only the bytes in transit are buffered: while one side does not read, nothing is read from the other side. Only frame
heads are followed, so that the router can limit messages, and can end each direction between two frames:

    one side closes         the other side receives the close, and has `CLOSE_SECONDS` to answer it
    the client is lost      the replica receives the close 1001
    the replica is lost     the client receives an error frame and the close 1011, or the answer to its own close
    the router ends it      the client receives an error frame or a close, the replica a close

A side that is in the middle of a frame when its source is lost can only be disconnected.

The router sends no pings unless it is told to keep silent sessions alive. Then both sides get them between two frames,
and the pongs are passed on: a pong that nobody asked for means nothing (RFC 6455, section 5.5.3).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from shared_registry.proxy import closing
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.answers import error_frame
from shared_registry.proxy.closing import Close
from shared_registry.proxy.frames import PING, TEXT, TOO_BIG, FrameError, FrameFollower, close_frame, frame

CLOSE_SECONDS = 2.0
"""How long a side may take to answer a close frame."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """The side that ended the session, and how.

    Attributes:
        by: The side that ended first.
        close: Its close code and reason.
        is_too_big: Whether the replica's message was larger than `max_frame_bytes`.
        is_refused: Whether the router ended it, because of a frame of the client.
    """

    by: Literal["client", "replica", "router"]
    close: Close
    is_too_big: bool = False
    is_refused: bool = False

    @property
    def ended(self) -> Ended:
        """Why the session ended, for the access log."""
        if self.by == "router":
            return "router_stopped"
        if self.by == "replica":
            return "replica_broke" if self.close.code is None else "replica_closed"
        if self.is_refused:
            return "client_error"
        return "client_left" if self.close.code is None else "client_closed"

    @property
    def close_code(self) -> int:
        """The close code that the client has sent or received; 1006 if its connection was lost."""
        if self.close.code is not None:
            return self.close.code
        return closing.FAILED if self.by == "replica" else closing.LOST


class Side(asyncio.Protocol):
    """One side of a session: passes on what its peer sends to the other side.

    Attributes:
        transport: The connection to this side's peer.
        frames: The frames that the peer sends.
        is_lost: Whether the connection is lost.
        received: The number of bytes that the peer has sent.
        was_told: Whether the peer was sent a close frame.
    """

    __slots__ = (
        "_is_deaf",
        "_on_lost",
        "_other",
        "_pending",
        "_tunnel",
        "frames",
        "is_client",
        "is_lost",
        "received",
        "transport",
        "was_told",
    )

    def __init__(
        self, tunnel: Tunnel, *, is_client: bool, longest: int, on_lost: Callable[[Exception | None], None]
    ) -> None:
        self.is_client = is_client
        self.frames = FrameFollower(is_masked=is_client, longest=longest)
        self.is_lost = False
        self.received = 0
        self.was_told = False
        self.transport: asyncio.Transport
        self._tunnel = tunnel
        self._on_lost = on_lost
        self._other: Side
        self._is_deaf = False
        self._pending: bytes | None = None

    def join(self, transport: asyncio.Transport, other: Side) -> None:
        """Connect the side with its transport and with the other side."""
        self.transport = transport
        self._other = other

    def data_received(self, data: bytes) -> None:
        """Pass data on, up to a close frame or an error."""
        other = self._other
        self.received += len(data)
        if other.was_told:  # nothing may follow a close frame
            self._drop(data)
            return
        rest = b""
        if other.is_ending:
            data, rest = data[: self.frames.left], data[self.frames.left :]
        try:
            passed = self.frames.follow(data)
        except FrameError as error:
            other.transport.write(error.before)
            self._tunnel.note_error(self, error)
            self._drop_after(error)
            return
        if passed:
            other.transport.write(passed)
        if other.is_ending:
            other.close_between_frames(b"")
            self._drop(rest)
        elif self.frames.close is not None:
            self._tunnel.note_close(self, self.frames.close)

    def note_sent(self, data: bytes) -> None:
        """Count what was passed on before the session began."""
        self.received += len(data)
        try:
            self.frames.follow(data)
        except FrameError as error:
            self._tunnel.note_error(self, error)
            self._drop_after(error)

    @property
    def is_ending(self) -> bool:
        """Whether the peer will be sent a close frame after the frame that is being sent."""
        return self._pending is not None

    @property
    def is_done(self) -> bool:
        """Whether the connection is lost, or may be closed because close frames were exchanged."""
        return self.is_lost or (self.was_told and self.frames.is_closed)

    def close_between_frames(self, last: bytes) -> None:
        """Send the peer the last frames, the last of them a close frame, as soon as no other frame is being sent."""
        if self.was_told or self.is_lost:
            return
        last = self._pending or last
        if self._other.frames.left:
            if self._other.is_lost:  # the rest of the frame will never come
                self.transport.abort()
            self._pending = last
            return
        self._pending = None
        self.was_told = True
        self.transport.write(last)
        self._tunnel.note_told()

    def ping(self) -> None:
        """Send the peer a ping, unless a frame is being sent or a close frame was sent, or the peer does not read."""
        is_ready = not self._other.frames.left and not self.is_ending and not self.was_told
        if is_ready and not self.transport.get_write_buffer_size():
            self.transport.write(frame(PING, b"", is_masked=not self.is_client))

    def connection_lost(self, error: Exception | None) -> None:
        """End the session, unless it has ended."""
        self.is_lost = self.was_told = True  # nothing may be written any more
        self.resume_writing()
        self._on_lost(error)
        self._tunnel.note_lost(self, error)

    def pause_writing(self) -> None:
        """Read nothing from the other side."""
        if not self._other.transport.is_closing():
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        if not self._other.transport.is_closing():
            self._other.transport.resume_reading()

    def _drop(self, data: bytes) -> None:
        """Read data only for the close frame in it."""
        if self._is_deaf or self.frames.is_closed:
            return
        try:
            self.frames.follow(data)
        except FrameError as error:
            self._drop_after(error)
            return
        if self.frames.close is not None:
            self._tunnel.note_close(self, self.frames.close)

    def _drop_after(self, error: FrameError) -> None:
        """Drop a frame that must not be passed on. If it is malformed, where it ends is unknown."""
        if error.code == TOO_BIG:
            self.frames.allow_any_length()
            self._drop(error.rest)
        else:
            self._is_deaf = True


class Tunnel:
    """A session under way.

    Attributes:
        client: The client's side.
        replica: The replica's side.
    """

    __slots__ = (
        "_ended",
        "_ending",
        "_loop",
        "_ping_seconds",
        "_pinging",
        "_request_id",
        "_timer",
        "client",
        "replica",
    )

    def __init__(
        self,
        *,
        longest: int,
        request_id: bytes,
        on_client_lost: Callable[[Exception | None], None],
        ping_seconds: float = 0.0,
    ) -> None:
        """Prepare a session; `begin()` begins it.

        Args:
            longest: The most bytes of a message.
            request_id: The id under which a failure is logged.
            on_client_lost: Called when the client's connection is lost.
            ping_seconds: How often to ping both sides; 0 for never.
        """
        self.client = Side(self, is_client=True, longest=longest, on_lost=on_client_lost)
        self.replica = Side(self, is_client=False, longest=longest, on_lost=_ignore)
        self._request_id = request_id
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._ending: Ending | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ping_seconds = ping_seconds
        self._pinging: asyncio.TimerHandle | None = None

    def begin(self, client: asyncio.Transport, replica: asyncio.Transport) -> None:
        """Join the two sides. Their transports have been handed to them already."""
        self.client.join(client, self.replica)
        self.replica.join(replica, self.client)
        if self._ping_seconds:
            self._pinging = self._loop.call_later(self._ping_seconds, self._ping)

    @property
    def ended(self) -> asyncio.Future[Ending]:
        """How the session ended, once it has ended and both sides were told.

        If the future is cancelled, the session continues; `end()` ends it.
        """
        return self._ended

    @property
    def is_ending(self) -> bool:
        """Whether a side or the router has ended the session."""
        return self._ending is not None

    def end(self, last: bytes, close: Close) -> None:
        """End the session for a reason of the router itself.

        Args:
            last: The last frames that the client receives, the last of them a close frame.
            close: The close that the replica receives.
        """
        self._ending = self._ending or Ending("router", close)
        self.client.close_between_frames(last)
        self.replica.close_between_frames(close_frame(close, is_masked=True))
        self._limit()

    # What the sides call

    def note_close(self, side: Side, close: Close) -> None:
        """A side has sent a close frame: pass it on."""
        self._ending = self._ending or Ending("client" if side.is_client else "replica", close)
        if side.is_client:
            self.replica.close_between_frames(close_frame(closing.for_replica(close), is_masked=True))
        elif (answer := closing.for_client(close)) is not None:
            self.client.close_between_frames(close_frame(answer))
        self._settle()

    def note_error(self, side: Side, error: FrameError) -> None:
        """A side has sent a frame that must not be passed on."""
        is_too_big = error.code == TOO_BIG
        close = Close(error.code, str(error))
        if side.is_client:
            self._ending = self._ending or Ending("client", close, is_refused=True)
            self.client.close_between_frames(close_frame(close))
            self.replica.close_between_frames(close_frame(close, is_masked=True))
        else:
            self._fail(Close(None, str(error)), is_too_big=is_too_big)
            self.replica.close_between_frames(close_frame(close, is_masked=True))
        self._limit()

    def note_lost(self, side: Side, error: Exception | None) -> None:
        """A side's connection is lost."""
        if side.is_client:
            self._ending = self._ending or Ending("client", Close(None))
            if not side.frames.is_closed:
                close = closing.for_replica(Close(None))
                self.replica.close_between_frames(close_frame(close, is_masked=True))
        elif self.client.frames.close is not None:  # it answered the client's close by disconnecting
            self.client.close_between_frames(close_frame(closing.for_replica(self.client.frames.close)))
        elif not side.frames.is_closed and not self.client.was_told:
            self._fail(Close(None, str(error) if error else "no close frame received or sent"), is_too_big=False)
        self._settle()

    def note_told(self) -> None:
        """A side was sent its close frame."""
        self._settle()

    # Inside

    def _fail(self, close: Close, *, is_too_big: bool) -> None:
        """The replica has failed: end the client's side with an error frame."""
        self._ending = self._ending or Ending("replica", close, is_too_big=is_too_big)
        text = "session: broke on the replica's side: %s (request %s)"
        request_id = self._request_id.decode()
        logger.warning(text, close.reason, request_id, extra={"request_id": request_id})
        message = "the replica's message is larger than max_frame_bytes" if is_too_big else "the replica failed"
        self.client.close_between_frames(failure("worker_failed", message, closing.FAILED, is_retryable=not is_too_big))

    def _limit(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(CLOSE_SECONDS, self._cut)

    def _settle(self) -> None:
        """Close the connections of sides that have closed and were told; end when both are done."""
        self._limit()
        sides = self.client, self.replica
        for side in sides:
            if side.is_done and not side.is_lost:
                side.transport.close()
        if all(side.is_done for side in sides):
            self._finish()

    def _cut(self) -> None:
        for side in (self.client, self.replica):
            if not side.is_lost:
                side.transport.abort()
        self._finish()

    def _ping(self) -> None:
        self.client.ping()
        self.replica.ping()
        self._pinging = self._loop.call_later(self._ping_seconds, self._ping)

    def _finish(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            self._pinging = None
        if self._timer is not None:
            self._timer.cancel()
        if self._ended.done():
            return
        if self._ending is None:
            self._ended.set_exception(RuntimeError("a session ended without an ending"))
        else:
            self._ended.set_result(self._ending)


def _ignore(error: Exception | None) -> None:
    pass


def failure(code: str, message: str, close_code: int, *, is_retryable: bool) -> bytes:
    """Return the frames that end a client's session with an error."""
    document = json.dumps(error_frame(code, message, is_retryable=is_retryable))
    return frame(TEXT, document.encode()) + close_frame(Close(close_code, closing.shortened(code)))
