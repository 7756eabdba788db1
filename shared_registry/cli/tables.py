"""The console for tables: it does not cut them to the terminal's width.

It imports rich, which is slow to import and which `serve` does not need. Commands import it where they print a table.
"""

from __future__ import annotations

import errno

from rich.console import Console

TABLE_WIDTH = 250
"""The most columns of a table, even on a narrower terminal: the terminal then wraps long lines, and urls stay whole."""


def new_console(width: int | None = TABLE_WIDTH) -> Console:
    """Return a console on standard output. If the width is `None`, it takes the terminal's width."""
    return _Console(width=width, markup=False, emoji=False, highlight=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error of any write to a closed pipe: typer then ends the command. Rich would exit at once."""
        raise BrokenPipeError(errno.EPIPE, "the reader of standard output has closed it")
