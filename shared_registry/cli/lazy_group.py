"""The subcommands, each imported when it is used: importing all of them takes longer than most of them run."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from shared_registry.aio.garbage import no_collections
from shared_registry.cli.help_text import HELPS
from shared_registry.cli.lean_imports import lean_imports

MODULES = {
    "serve": "serve",
    "probe": "probe",
    "demo": "demonstration",
    "status": "watching",
    "routers": "watching",
    "leases": "watching",
    "queue": "watching",
    "events": "watching",
    "namespaces": "namespace_list",
    "wait": "watching",
    "check": "checking",
    "join": "joining",
    "add": "replicas",
    "remove": "replicas",
    "drain": "replicas",
    "enable": "replicas",
    "disable": "replicas",
    "step-down": "leader",
    "upgrade": "upgrading",
    "keys": "key_list",
    "acl": "rights",
    "config": "settings_commands",
    "api-key": "api_key",
}
"""The module of each subcommand, in the order of the help. Its `commands` has the subcommand."""
GROUPS = {"config", "api-key"}
"""Subcommands with subcommands of their own: all `commands` of their module."""


class LazyGroup(TyperGroup):
    """A group of commands that imports a command's module when the command is looked up."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()
        self._is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names, in the order of the help. Imports nothing."""
        return list(self.commands)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return what completes a word, for the shell: commands and options. Imports none of the commands."""
        self._is_listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._is_listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a name, or `None`."""
        if self._is_listing and cmd_name in HELPS:
            return TyperCommand(cmd_name, help=_first_paragraph(HELPS[cmd_name].partition("\n\n")[2]))
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands with the first paragraphs of their helps. The base class would cut these to one line."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_paragraph(one.help or "")) for name, one in self.commands.items()])


class LazyCommands(MutableMapping[str, Any]):
    """The commands by name. The value is imported at its first use."""

    def __init__(self) -> None:
        self._modules = dict(MODULES)
        self._imported: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._imported:
            self._imported[name] = _imported(name, self._modules[name])
        return self._imported[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._modules.setdefault(name, "")
        self._imported[name] = command

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._imported.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _imported(name: str, module: str) -> Any:
    with no_collections(), lean_imports():
        commands = import_module(f"shared_registry.cli.{module}").commands
    commands.rich_markup_mode = None  # rich is slow to import, and a help of plain text can be read by programs too
    group = get_group(commands)
    group.name = name
    return group if name in GROUPS else group.commands[name]


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n", 1)[0].split())
