"""Writes shared_registry/cli/help_text.py, the helps of the command and of its subcommands.

    python -m tests.tools.command_help

The command prints these texts for `--help`: to make them, the commands would have to be imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer.main

from shared_registry.cli.app import app
from shared_registry.cli.lazy_group import GROUPS

PATH = Path(__file__).parents[2] / "shared_registry" / "cli" / "help_text.py"


def command_helps() -> dict[str, str]:
    """Return what the commands themselves say, on a terminal of 80 columns or more, for the name `{program}`.

    The names are those of the commands, such as `config show`; empty for the command as a whole.
    """
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        return dict(_helps(typer.main.get_command(app), None))
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _helps(command: Any, parent: Any) -> list[tuple[str, str]]:
    name = command.name if parent else "{program}"
    context = command.context_class(command, parent=parent, info_name=name, **command.context_settings)
    found = [(context.command_path.removeprefix("{program}").strip(), command.get_help(context))]
    if parent is None or command.name in GROUPS:
        for one in command.commands.values():
            found += _helps(one, context)
    return found


def module_text() -> str:
    """Return the module."""
    lines = [
        '"""The helps of the commands. `python -m tests.tools.command_help` makes them of the docstrings and options.',
        "",
        "Each is what the command itself writes on a terminal of 80 columns or more.",
        '"""',
        "",
        "HELPS = {",
    ]
    for name, text in command_helps().items():
        escaped = text.replace("\\", "\\\\")
        lines.append(f'    "{name}": """\\\n{escaped}\n""",')
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    PATH.write_text(module_text(), encoding="utf-8")
