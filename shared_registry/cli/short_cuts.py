"""The usual forms of the commands that only read, without typer.

Typer and the checks of its options take twice as long as everything else that such a command does. What is not of a
usual form is left to typer, which also refuses what is wrong: a short cut never says that words are wrong.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from types import ModuleType

TELEMETRY = "opentelemetry"
COMMANDS = {"status": "show_status", "routers": "show_routers", "leases": "show_leases", "queue": "show_queue"}
"""The function in `reading` of each command."""
_ADDRESS = {"--redis": "redis", "--namespace": "namespace", "-n": "namespace"}
_OF_STATUS = {"--wide": "is_wide", "--unhealthy": "only_unwell"}


class ShortCut:
    """A command of a usual form.

    Attributes:
        command: Its name.
        address: The values of --redis and --namespace that are given; the last of each.
        as_json: Whether it prints JSON.
        filters: The fields of `ReplicaFilter` that are set.
    """

    def __init__(self, command: str, address: dict[str, str], filters: list[str], *, as_json: bool) -> None:
        self.command = command
        self.address = address
        self.as_json = as_json
        self.filters = filters

    def run(self) -> None:
        """Run it.

        Raises:
            RegistryError: As the command itself.
        """
        with lean_imports():
            from shared_registry.cli import reading  # noqa: PLC0415  slow to import
            from shared_registry.cli.global_options import GlobalOptions  # noqa: PLC0415
            from shared_registry.cli.replica_filter import ReplicaFilter  # noqa: PLC0415

        options = GlobalOptions(self.address.get("redis"), self.address.get("namespace"), self.as_json)
        if self.command == "status":
            reading.show_status(options, chosen=ReplicaFilter("is_wide" in self.filters, "only_unwell" in self.filters))
        else:
            getattr(reading, COMMANDS[self.command])(options)


def short_cut(words: Sequence[str]) -> ShortCut | None:
    """Return the command that these words of the command line are; `None` if they have no usual form."""
    command, as_json = "", False
    address: dict[str, str] = {}
    filters: list[str] = []
    rest = iter(words)
    for word in rest:
        name, is_joined, value = word.partition("=")
        if word == "--json":
            as_json = True
        elif not command and word in COMMANDS:
            command = word
        elif command == "status" and word in _OF_STATUS:
            filters.append(_OF_STATUS[word])
        elif word in _ADDRESS or (is_joined and name.startswith("--") and name in _ADDRESS):
            value = value if is_joined else next(rest, "")
            if not value or value.startswith("-"):
                return None
            address[_ADDRESS[name]] = value
        else:
            return None
    return ShortCut(command, address, filters, as_json=as_json) if command else None


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import redis-py in this block without what it imports for parts that a command does not use.

    It is for processes that end soon. OpenTelemetry's SDK, which redis-py imports if it is installed, appears to be
    missing; it would be needed for the metrics of redis-py. `importlib.metadata` is executed when it is first used;
    redis-py asks it only for its own version.
    """
    metadata = "importlib.metadata"
    spec = None if metadata in sys.modules else find_spec(metadata)
    if spec is not None and spec.loader is not None:
        spec.loader = LazyLoader(spec.loader)
        sys.modules[metadata] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(importlib, "metadata", module)  # noqa: B010  as any import does; otherwise the next import executes it
    is_hidden = TELEMETRY not in sys.modules
    if is_hidden:
        sys.modules.update({TELEMETRY: cast("ModuleType", None)})  # an import then fails as if it were missing
    try:
        yield
    finally:
        if is_hidden:
            del sys.modules[TELEMETRY]
