"""What this router has written and the event stream has not carried yet. Pure, no I/O.

The view shows such a write as soon as the reply to its command arrives. A failover may then lose it, so that the event
stream never carries it. This shows when the stream passes the write's id, or when a poll that began after the write
does not bring it.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.model import Event, is_later
from shared_registry.store.reader import Gap

LOST_WRITE = "lost_write"


class OwnWrites:
    """The events of this router's commands, from their replies until the event stream carries them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def pending(self) -> tuple[Event, ...]:
        """Return the writes that the stream has not carried yet."""
        return tuple(self._events)

    def later_than(self, revision: str) -> list[Event]:
        """Return the pending writes after a revision."""
        return [event for event in self._events if is_later(event.id, revision)]

    def add(self, events: Sequence[Event], *, revision: str) -> None:
        """Record the events of a reply, except those that the stream has carried already.

        Args:
            events: The events of the reply.
            revision: The last event of the stream so far.
        """
        self._events += [event for event in events if is_later(event.id, revision)]

    def keep(self, events: Sequence[Event]) -> None:
        """Forget all writes but these."""
        self._events = list(events)

    def pass_by(self, events: Sequence[Event]) -> None:
        """Forget the writes up to the last of these events of the stream.

        Raises:
            Gap: One of these writes is not among the events, so a failover has lost it.
        """
        last, carried = events[-1].id, {(event.id, event.mark) for event in events}
        lost = [one for one in self._events if not is_later(one.id, last) and (one.id, one.mark) not in carried]
        self._events = self.later_than(last)
        if lost:
            raise Gap(LOST_WRITE)

    def expect_carried(self, writes: Sequence[Event]) -> None:
        """Forget those of these writes that are still pending.

        Raises:
            Gap: There were such writes; a failover has lost them, because the stream should have carried them by now.
        """
        lost = [event for event in writes if event in self._events]
        if lost:
            self._events = [event for event in self._events if event not in lost]
            raise Gap(LOST_WRITE)
