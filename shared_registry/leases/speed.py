"""Measures how fast the queue moves, by the waiters of one router. Pure."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60


class QueueSpeed:
    """Counts by how many positions this router's waiters advanced within the last minute, and how long that took.

    The queue is one for all routers, so this router's own waiters show its speed. A waiter that advanced by n positions
    means that n sessions before it were served, or left. Times are monotonic readings, in seconds.
    """

    def __init__(self) -> None:
        self._positions: dict[str, tuple[float, int]] = {}
        self._moves: deque[tuple[int, float, int]] = deque()  # second, waiting time in all, positions in all

    def record(self, now: float, lease_id: str, position: int) -> None:
        """Record the position of a session. Positions count from 1; 0 means that the session was given a slot."""
        read_at, before = self._positions.get(lease_id, (now, position))
        self._positions[lease_id] = now, position
        second, seconds, positions = self._moves.pop() if self._moves else (int(now), 0.0, 0)
        if second != int(now):
            self._moves.append((second, seconds, positions))
            second, seconds, positions = int(now), 0.0, 0
        self._moves.append((second, seconds + now - read_at, positions + max(before - position, 0)))

    def forget(self, lease_id: str) -> None:
        """Record that a session no longer waits."""
        self._positions.pop(lease_id, None)

    def seconds_to_pass(self, now: float, positions: int) -> float | None:
        """Return how long the queue takes to advance by that many positions; `None` if no waiter advanced lately."""
        while self._moves and now - self._moves[0][0] > WINDOW_SECONDS:
            self._moves.popleft()
        moved = sum(count for _, _, count in self._moves)
        return positions * sum(seconds for _, seconds, _ in self._moves) / moved if moved else None
