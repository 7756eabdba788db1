"""Close codes of WebSockets: translates the close of one side into the close that the other side receives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

NORMAL, GOING_AWAY, POLICY, FAILED, RESTART, TRY_LATER = 1000, 1001, 1008, 1011, 1012, 1013
LOST = 1006
"""Never sent: a connection that was lost without a close frame (RFC 6455, section 7.1.5)."""
_NO_CODE = 1005
_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
"""The codes that are allowed in a close frame, in addition to the applications' own from 3000 to 4999."""
_LONGEST_REASON = 123


@dataclass(frozen=True, slots=True)
class Close:
    """How one side ended the session.

    Attributes:
        code: The close code; `None` if the connection broke without a close frame.
        reason: The reason in the close frame.
    """

    code: int | None
    reason: str = ""


def for_replica(client: Close) -> Close:
    """Return the close that the replica receives after the client has ended: the client's own, if it has sent one."""
    if client.code is None:
        return Close(GOING_AWAY, "the client's connection was lost")
    return _sendable(client)


def for_client(replica: Close) -> Close | None:
    """Return the close that the client receives after the replica has closed; `None` if the replica's side failed."""
    return None if replica.code is None else _sendable(replica)


def is_sendable(code: int) -> bool:
    """Return whether a code is allowed in a close frame."""
    return code in _SENDABLE or 3000 <= code <= 4999


def _sendable(close: Close) -> Close:
    if close.code == _NO_CODE:  # a close frame without a code is a normal close
        return Close(NORMAL)
    return Close(close.code, shortened(close.reason))


def shortened(reason: str) -> str:
    """Return a reason, cut to the length that fits into a close frame."""
    return reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
