"""Close codes of WebSockets: what one side's end means to the other. Pure."""

from __future__ import annotations

from dataclasses import dataclass

NORMAL, GOING_AWAY, POLICY, FAILED, RESTART, TRY_LATER = 1000, 1001, 1008, 1011, 1012, 1013
_NO_CODE = 1005
_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
"""Those that may stand in a close frame, besides the applications' own from 3000 to 4999."""
_LONGEST_REASON = 123


@dataclass(frozen=True, slots=True)
class Close:
    """How a side ended.

    Attributes:
        code: Its close code; `None` where the connection broke without one.
        reason: What it said.
    """

    code: int | None
    reason: str = ""


def for_replica(client: Close) -> Close:
    """Return what a replica is told when the client has ended: the client's own code where there is one."""
    if client.code is None:
        return Close(GOING_AWAY, "the client's connection was lost")
    return _sendable(client)


def for_client(replica: Close) -> Close | None:
    """Return what a client is told when the replica has ended; `None` where that was no close but a failure."""
    return None if replica.code is None else _sendable(replica)


def _sendable(close: Close) -> Close:
    if close.code == _NO_CODE:  # a close frame without a code: the ordinary end
        return Close(NORMAL)
    if close.code not in _SENDABLE and not 3000 <= (close.code or 0) <= 4999:
        return Close(FAILED, f"closed with {close.code}")
    return Close(close.code, shortened(close.reason))


def shortened(reason: str) -> str:
    """Return a reason that fits into a close frame."""
    return reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
