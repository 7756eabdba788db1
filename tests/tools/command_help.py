"""Writes shared_registry/cli/help_text.py, the help of the command.

    python -m tests.tools.command_help

The command prints this text for `--help`: to make it, all commands would have to be imported.
"""

from __future__ import annotations

import os
from pathlib import Path

import typer.main

from shared_registry.cli.app import app

PATH = Path(__file__).parents[2] / "shared_registry" / "cli" / "help_text.py"


def command_help() -> str:
    """Return what the commands themselves say, on a terminal of 80 columns or more, for the name `{program}`."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        group = typer.main.get_command(app)
        text = group.make_context("PROGRAM", ["status"]).get_help()
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return text.replace("PROGRAM", "{program}", 1)


def module_text() -> str:
    """Return the module."""
    about = '"""The help of the command. `python -m tests.tools.command_help` makes it of the commands\' docstrings."""'
    return f'{about}\n\nHELP = """\\\n{command_help()}\n"""\n'


if __name__ == "__main__":
    PATH.write_text(module_text(), encoding="utf-8")
