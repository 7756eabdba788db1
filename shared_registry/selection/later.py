"""Work on a large view that may wait: it is done in short pieces, and sessions run in between.

Who can give way to the event loop takes the pieces on. While nobody has, no work is put off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

Piece = Callable[[], bool]
"""Does some more of a work, for two milliseconds at most. Returns whether the work is done."""


class Later:
    """The unfinished work of one view."""

    def __init__(self) -> None:
        self._works: dict[Piece, None] = {}
        self._takers = 0
        self._wake: Callable[[], None] | None = None

    def put_off(self, piece: Piece) -> bool:
        """Let this work be done in pieces. Return whether somebody does that."""
        if not self._takers:
            return False
        self._works[piece] = None
        if self._wake is not None:
            self._wake()
        return True

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return not self._works

    def do_piece(self) -> None:
        """Do one piece of the work that has waited longest."""
        piece = next(iter(self._works), None)
        if piece is not None and piece():
            self._works.pop(piece, None)

    @contextlib.contextmanager
    def in_pieces(self) -> Iterator[None]:
        """Take pieces on for the block, whose caller calls `do_piece`. Work that is left at the end is done there."""
        self._takers += 1
        try:
            yield
        finally:
            self._takers -= 1
            while self._works and not self._takers:
                self.do_piece()

    async def run(self) -> None:
        """Take pieces on, and do them as they come, until cancelled. Only one `run` may be active."""
        has_work = asyncio.Event()
        self._wake = has_work.set
        try:
            with self.in_pieces():
                while True:
                    await has_work.wait()
                    has_work.clear()
                    while not self.is_done:
                        self.do_piece()
                        await asyncio.sleep(0)
        finally:
            self._wake = None
