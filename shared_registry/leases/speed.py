"""How fast the queue moves, as one router sees it. Pure."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60


class LineSpeed:
    """Counts by how many places those who wait here came forward within the last minute, and how long that took.

    All of the line that is ahead moves together, over all routers, so that one's own waiters show its speed: who came
    forward by n places saw n sessions ahead be served, or leave. Times are monotonic readings, in seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}
        self._moves: deque[tuple[int, float, int]] = deque()  # second, how long in all, how many places

    def see(self, now: float, lease_id: str, position: int) -> None:
        """A session stands there; positions count from 1, and 0 is whose turn has come."""
        seen_at, before = self._seen.get(lease_id, (now, position))
        self._seen[lease_id] = now, position
        second, seconds, places = self._moves.pop() if self._moves else (int(now), 0.0, 0)
        if second != int(now):
            self._moves.append((second, seconds, places))
            second, seconds, places = int(now), 0.0, 0
        self._moves.append((second, seconds + now - seen_at, places + max(before - position, 0)))

    def forget(self, lease_id: str) -> None:
        """A session does not wait any more."""
        self._seen.pop(lease_id, None)

    def seconds_to_pass(self, now: float, places: int) -> float | None:
        """Return how long the line takes to move by so many places; `None` where nothing was seen to move."""
        while self._moves and now - self._moves[0][0] > WINDOW_SECONDS:
            self._moves.popleft()
        moved = sum(count for _, _, count in self._moves)
        return places * sum(seconds for _, seconds, _ in self._moves) / moved if moved else None
