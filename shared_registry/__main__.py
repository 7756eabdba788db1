"""The command `shared-registry`, also as `python -m shared_registry` where its script is not on the PATH.

`--version` and `--help` import none of the commands: they answer in a tenth of the time that the imports would take.
"""

from __future__ import annotations

import os
import sys

from shared_registry._version import __version__
from shared_registry.errors import MissingExtra

HELP_COLUMNS = 80


def main() -> None:
    """Run the command, or say how to install it."""
    try:
        if sys.argv[1:] == ["--version"]:
            _print(f"shared-registry {__version__}\n")
        elif sys.argv[1:] in (["--help"], ["-h"]) and _columns() >= HELP_COLUMNS:
            from shared_registry.cli.help_text import HELP  # noqa: PLC0415  an optional part of the package

            _print(HELP.replace("{program}", _program(), 1))
        else:
            from shared_registry.aio.garbage import no_collections  # noqa: PLC0415  the answers above do without

            with no_collections():
                from shared_registry.cli import app  # noqa: PLC0415  an optional part of the package

            app.main()
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _program() -> str:
    name = os.path.basename(sys.argv[0])  # noqa: PTH119  pathlib is slow to import
    return "python -m shared_registry" if name == "__main__.py" else name


def _columns() -> int:
    """Return the terminal's width, as the help of the other commands takes it."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or HELP_COLUMNS
    except OSError:  # not a terminal
        return HELP_COLUMNS


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at its exit, and says so
        sys.exit(1)


if __name__ == "__main__":
    main()
