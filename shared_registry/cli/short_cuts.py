"""The usual forms of `serve` and of the commands that only read, without typer.

Typer and the checks of its options take twice as long as everything else that a command does which reads, and 4 MB of a
router's memory. What is not of a usual form is left to typer, which also refuses what is wrong: a short cut never says
that words are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared_registry.cli.lean_imports import lean_imports

if TYPE_CHECKING:
    from shared_registry.cli.global_options import GlobalOptions

SERVE = "serve"
READING = {"status": "show_status", "routers": "show_routers", "leases": "show_leases", "queue": "show_queue"}
"""The function in `reading` of each command that only reads."""
_ADDRESS = {"--redis": "redis", "--namespace": "namespace", "-n": "namespace"}
_VALUES = {
    SERVE: {
        "--config": "path",
        "-c": "path",
        "--host": "host",
        "--port": "port",
        "-p": "port",
        "--workers": "workers",
        "--wait-redis": "wait_seconds",
    }
}
"""The options with a value of each command, and what the value is of; `Serve` has these fields."""
_FLAGS = {
    "status": {"--wide": "is_wide", "--unhealthy": "only_unwell"},
    SERVE: {"--never-lead": "never_lead"},
}
_NUMBERS = {"port", "workers"}


class ShortCut:
    """A command of a usual form.

    Attributes:
        command: Its name.
        values: The last value of each option that is given, by what it is of.
        flags: What else is given.
    """

    def __init__(self, command: str, values: dict[str, str], flags: set[str]) -> None:
        self.command = command
        self.values = values
        self.flags = flags

    @property
    def ends_soon(self) -> bool:
        """Whether it is not a service."""
        return self.command != SERVE

    def run(self) -> int:
        """Run it. Return the exit code.

        Raises:
            RegistryError: As the command itself.
        """
        from shared_registry.cli.global_options import GlobalOptions  # noqa: PLC0415  slow to import

        values, flags = dict(self.values), set(self.flags)
        options = GlobalOptions(values.pop("redis", None), values.pop("namespace", None), "as_json" in flags)
        flags.discard("as_json")
        if self.command == SERVE:
            return _serve(options, values, flags)
        self._read(options, flags)
        return 0

    def _read(self, options: GlobalOptions, flags: set[str]) -> None:
        with lean_imports():
            from shared_registry.cli import reading  # noqa: PLC0415  slow to import
            from shared_registry.cli.replica_filter import ReplicaFilter  # noqa: PLC0415

        if self.command == "status":
            reading.show_status(options, chosen=ReplicaFilter("is_wide" in flags, "only_unwell" in flags))
        else:
            getattr(reading, READING[self.command])(options)


def _serve(options: GlobalOptions, texts: dict[str, str], flags: set[str]) -> int:
    from pathlib import Path  # noqa: PLC0415

    from shared_registry.cli import serving  # noqa: PLC0415

    values: dict[str, Any] = {**texts, **dict.fromkeys(flags, True)}
    values |= {field: int(texts[field]) for field in _NUMBERS & texts.keys()}
    if "path" in texts:
        values["path"] = Path(texts["path"])
    if "wait_seconds" in texts:
        values["wait_seconds"] = float(texts["wait_seconds"])
    return serving.serve_until_told(options, serving.Serve(**values))


def short_cut(words: Sequence[str]) -> ShortCut | None:
    """Return the command that these words of the command line are; `None` if they have no usual form."""
    command = ""
    values: dict[str, str] = {}
    flags: set[str] = set()
    rest = iter(words)
    for word in rest:
        name, is_joined, value = word.partition("=")
        options = _ADDRESS | _VALUES.get(command, {})
        if word == "--json":
            flags.add("as_json")
        elif not command and (word in READING or word == SERVE):
            command = word
        elif word in _FLAGS.get(command, {}):
            flags.add(_FLAGS[command][word])
        elif word in options or (is_joined and name.startswith("--") and name in options):
            value = value if is_joined else next(rest, "")
            if not _is_usual(options[name], value):
                return None
            values[options[name]] = value
        else:
            return None
    return ShortCut(command, values, flags) if command else None


def _is_usual(field: str, text: str) -> bool:
    """Return whether the value of an option is certainly right, as far as typer would judge it."""
    if not text or text.startswith("-"):
        return False
    if field in _NUMBERS:
        return text.isdecimal()
    if field == "wait_seconds":
        try:
            return 0 < float(text) < math.inf
        except ValueError:
            return False
    return True
