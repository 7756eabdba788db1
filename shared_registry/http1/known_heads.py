"""Remembers what a parser has found in heads of messages, so that it need not read the same bytes again. Pure.

A program sends heads that are equal byte for byte: a client with most of its requests, a server within a second. If the
length of the body stands in the head, and the message has arrived whole, the bytes of the head tell all of it.

A head is remembered when it comes for the second time. Those that come once, such as with an id of their own, displace
no other, and cost little.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
SEEN_FOR_EACH_KNOWN = 8
"""Of how many heads, for each that can be remembered, it is known that they came once."""
_END_OF_HEAD = b"\r\n\r\n"


class KnownHeads(Generic[T]):
    """The heads that were remembered last."""

    __slots__ = ("_known", "_longest", "_most", "_seen")

    def __init__(self, most: int, longest: int) -> None:
        """Remember nothing yet.

        Args:
            most: How many heads are remembered.
            longest: The longest of them, in bytes.
        """
        self._known: dict[bytes, tuple[int, T]] = {}
        self._seen: set[int] = set()
        self._most = most
        self._longest = longest

    def find(self, data: bytes) -> tuple[T, bytes] | None:
        """Return what is known of a message, and its body; `None` if the data is not one message with a known head.

        Args:
            data: What was received, from the beginning of a message on.
        """
        end = data.find(_END_OF_HEAD, 0, self._longest) + len(_END_OF_HEAD)
        known = self._known.get(data[:end])
        if known is None or len(data) - end != known[0]:
            return None
        return known[1], data[end:]

    def add(self, data: bytes, body_length: int, meaning: T) -> None:
        """Remember the head of a message, if it came before, is not too long, and the data is just that message.

        Args:
            data: What was received. The parser has found one whole message in it, and expects another one now.
            body_length: The length of its body, which follows from the head alone.
            meaning: What the head means.
        """
        end = data.find(_END_OF_HEAD, 0, self._longest) + len(_END_OF_HEAD)
        if end < len(_END_OF_HEAD) or len(data) - end != body_length:
            return
        head = data[:end]
        mark = hash(head)  # of two heads with equal ones, the second is remembered at once, which does no harm
        if mark not in self._seen:
            if len(self._seen) >= SEEN_FOR_EACH_KNOWN * self._most:
                self._seen.clear()
            self._seen.add(mark)
            return
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[head] = body_length, meaning
