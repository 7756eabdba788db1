"""The access log: one line for each request and for each WebSocket session, written when it has ended.

A line holds nothing that a client can forge lines or fields with: characters of paths that urls do not have are
percent-encoded, and the other texts of clients are checked. Queries and names of sessions are left out, because they
may be secret.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from shared_registry.config import RouterConfig
from shared_registry.leases.ledger import session_digest
from shared_registry.proxy.access_record import AccessRecord
from shared_registry.proxy.log_file import LogFile

if TYPE_CHECKING:
    from shared_registry.proxy.exchange import Exchange
    from shared_registry.proxy.refusals import Refusal

LONGEST_PATH = 1024
"""The most bytes of a path in a line. A longer one ends with three dots."""
_UNSAFE = re.compile(rb"[^!-~]|[\"\\<>^`{|}]")
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class AccessLog:
    """Makes the lines, and passes them to a function."""

    def __init__(
        self, form: Literal["text", "json"], put: Callable[[bytes], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        """Create the log.

        Args:
            form: The form of the lines.
            put: Takes each line. It must neither block nor raise.
            clock: The time in seconds since the epoch.
        """
        self._line = _text if form == "text" else _json
        self._put = put
        self._clock = clock

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._clock()

    def write(self, exchange: Exchange, record: AccessRecord) -> None:
        """Write the line of a request that has ended."""
        session = record.session
        fields = {
            "time": _shown_time(record.began_at),
            "request_id": exchange.request_id.decode("ascii"),
            "client": _shown_client(exchange.client_address),
            "method": exchange.method,
            "path": shown_path(exchange.target),
            "protocol": "websocket" if exchange.is_handshake else "http",
            "key": exchange.key_name,
            "place": record.place,
            "replica": record.replica,
            "session_digest": None if session is None else session_digest(session),
            "status": exchange.status,
            "close_code": record.close_code,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "wait_ms": _ms_since(exchange.started_at, record.placed_at),
            "first_byte_ms": _ms_since(exchange.started_at, exchange.answered_at),
            "duration_ms": _ms_since(exchange.started_at, exchange.ended_at),
            "attempts": record.attempts,
            "ended": exchange.ended,
            "error": record.error,
        }
        self._put(self._line(fields))

    def write_refusal(
        self,
        refusal: Refusal,
        request_id: bytes,
        client: str | None,
        *,
        is_sent: bool = True,
        method: str | None = None,
        target: bytes = b"",
    ) -> None:
        """Write the line of a request that could not be read, or of a client for which there was no room.

        Args:
            refusal: The refusal.
            request_id: The id that the refusal has.
            client: The client's address.
            is_sent: Whether the client was sent the refusal.
            method: The request's method, as far as it was read.
            target: The request's target, as far as it was read.
        """
        fields = {
            "time": _shown_time(self._clock()),
            "request_id": request_id.decode("ascii"),
            "client": _shown_client(client),
            "method": method,
            "path": shown_path(target),
            "protocol": "http",
            **_UNREAD,
            "status": refusal.status if is_sent else None,
            "error": refusal.code,
        }
        self._put(self._line(fields))


@contextlib.asynccontextmanager
async def opened_access_log(config: RouterConfig) -> AsyncIterator[AccessLog | None]:
    """Open the access log of a router; `None` if it is off. At the end what waits is written, for a short time.

    Raises:
        ConfigError: The file cannot be written.
    """
    if config.access_log == "off":
        yield None
        return
    async with LogFile(config.access_log_file).writing() as put:
        yield AccessLog(config.access_log, put)


def shown_path(target: bytes) -> str | None:
    """Return the path of a request's target, safe to show; `None` for a target that has none.

    What comes after the path is left out, and so are whole urls, which may contain a password.
    """
    if not target.startswith((b"/", b"*")):
        return None
    path = target.partition(b"?")[0].partition(b"#")[0]
    if len(path) > LONGEST_PATH:
        path = path[:LONGEST_PATH] + b"..."
    return _encoded(path)


def _encoded(text: bytes) -> str:
    """Return a text with all characters percent-encoded that urls do not have."""
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], text)
    return text.decode("ascii")


_UNREAD: dict[str, Any] = {
    "key": None,
    "place": None,
    "replica": None,
    "session_digest": None,
    "status": None,
    "close_code": None,
    "bytes_in": 0,
    "bytes_out": 0,
    "wait_ms": None,
    "first_byte_ms": None,
    "duration_ms": None,
    "attempts": 0,
    "ended": "refused",
    "error": None,
}


def _ms_since(start: float, moment: float | None) -> float | None:
    return None if moment is None else round((moment - start) * 1000, 3)


def _shown_time(seconds: float) -> str:
    milliseconds = int(seconds * 1000)
    return f"{_shown_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@functools.lru_cache(4)
def _shown_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@functools.lru_cache(1024)
def _shown_client(client: str | None) -> str | None:
    return None if client is None else _encoded(client.encode(errors="replace"))


def _json(fields: Mapping[str, Any]) -> bytes:
    return _to_json(fields).encode() + b"\n"


def _text(fields: Mapping[str, Any]) -> bytes:
    pairs = [f"{name}={'-' if value is None else value}" for name, value in fields.items()]
    pairs[0] = fields["time"]
    return " ".join(pairs).encode("ascii", "backslashreplace") + b"\n"
