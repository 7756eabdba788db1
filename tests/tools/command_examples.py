"""Writes the outputs that docs/cli.md shows, from a run of its commands.

    python -m tests.tools.command_examples

Run it when a command prints something else; the page's commands stay as they are.
"""

from __future__ import annotations

from tests.support.command_page import PAGE, print_page
from tests.support.shown_commands import with_outputs

if __name__ == "__main__":
    PAGE.write_text(with_outputs(PAGE.read_text(encoding="utf-8"), print_page()), encoding="utf-8")
