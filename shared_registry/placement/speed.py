"""How fast the waiting line moves, as one router sees it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

WINDOW_SECONDS = 60.0


class LineSpeed:
    """Counts how many places those who wait here came forward within the last minute.

    All of the line that is ahead moves together, over all routers, so that one's own waiters show its speed: who came
    forward by n saw n sessions ahead be served, or leave; who was served from place n, likewise.
    """

    def __init__(self) -> None:
        self._seen_at: float | None = None
        self._positions: dict[str, int] = {}
        self._moves: deque[tuple[float, float, int]] = deque()

    def see(self, now: float, positions: Mapping[str, int]) -> None:
        """Take in where everybody stands; who stood somewhere before, and does not, was served.

        Args:
            now: A monotonic reading, in seconds.
            positions: By lease id, from 1.
        """
        if self._seen_at is not None and self._positions:
            moved = max(before - positions.get(one, 0) for one, before in self._positions.items())
            self._moves.append((now, now - self._seen_at, max(moved, 0)))
        self._seen_at = now
        self._positions = dict(positions)

    def forget(self, lease_id: str) -> None:
        """It has left the line without being served."""
        self._positions.pop(lease_id, None)

    def seconds_to_pass(self, now: float, places: int) -> float | None:
        """Return how long the line takes to move by so many places; `None` where nothing was seen to move."""
        while self._moves and now - self._moves[0][0] > WINDOW_SECONDS:
            self._moves.popleft()
        moved = sum(count for _, _, count in self._moves)
        if not moved:
            return None
        return places * sum(seconds for _, seconds, _ in self._moves) / moved
