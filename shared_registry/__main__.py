"""The command `shared-registry`, also as `python -m shared_registry` where its script is not on the PATH.

`--version` and all forms of `--help` import none of the commands: they answer in a tenth of the time that the imports
would take. `serve` and the commands that only read do without typer in their usual forms (see `cli/short_cuts.py`).
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys

from shared_registry._version import __version__
from shared_registry.errors import MissingExtra, RegistryError

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
    from shared_registry.cli.short_cuts import ShortCut

HELP_COLUMNS = 80
LONGEST_NAME = 2
"""The most words of a command's name, as in `config show`."""
INTERRUPTED = 130
FIRST_PROCESS = 1
SIGNALLED = 128
UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE})
"""Why standard output may take nothing more."""
COMPLETION = "_SHARED_REGISTRY_COMPLETE"
"""The variable with which a shell asks for completions."""


def main() -> None:
    """Run the command, and exit."""
    if os.getpid() == FIRST_PROCESS:
        _end_by_signals()
    _open_output()
    try:
        try:
            _answer()
        finally:
            sys.stdout.flush()
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        if error.errno != errno.EPIPE:
            sys.stderr.write(f"error: the output cannot be written: {error.strerror}\n")
        sys.exit(_end_without_output())


def _open_output() -> None:
    """Have an output that takes every text: also names that its encoding lacks, and also if it was closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _answer() -> None:
    """Run the command, or say how to install it."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"shared-registry {__version__}\n")
    elif text := _help():
        sys.stdout.write(text)
    elif short_cut := _short_cut():
        sys.exit(_run(short_cut))
    else:
        from shared_registry.aio.garbage import no_collections  # noqa: PLC0415  the answers above do without

        with no_collections():
            from shared_registry.cli import app  # noqa: PLC0415  an optional part of the package

        app.main()


def _end_by_signals() -> None:
    """Let signals end the first process of a container, as they end any other, until it handles them itself.

    The system drops a signal that the first process does not handle: a pod that is stopped while it starts would go on.
    """
    import signal  # noqa: PLC0415  slow to import, and seldom needed

    def end(number: int, _: object) -> None:
        os._exit(SIGNALLED + number)

    for number in (signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def _help() -> str:
    """Return the help that is asked for; empty if none is, or if typer must write it."""
    *words, last = sys.argv[1:] or [""]
    if last not in {"--help", "-h"} or len(words) > LONGEST_NAME or COMPLETION in os.environ:
        return ""
    from shared_registry.cli.help_text import HELPS  # noqa: PLC0415  an optional part of the package

    text = HELPS.get(" ".join(words), "")
    return text.replace("{program}", _program(), 1) if _columns() >= HELP_COLUMNS else ""


def _short_cut() -> ShortCut | None:
    if COMPLETION in os.environ:
        return None
    from shared_registry.cli.short_cuts import short_cut  # noqa: PLC0415  an optional part of the package

    return short_cut(sys.argv[1:])


def _run(short_cut: ShortCut) -> int:
    """Run a command; without collecting its garbage, if it ends soon. Return the exit code."""
    if short_cut.ends_soon:
        gc.disable()
    try:
        return short_cut.run()
    except RegistryError as error:
        from shared_registry.cli.exit_codes import exit_code  # noqa: PLC0415

        sys.stderr.write(f"error: {error}\n")
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        gc.freeze()  # or Python searches all objects at its exit, which takes as long as the command


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


def _end_without_output() -> int:
    """Return the exit code of a command whose output nobody reads any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at its exit, and says so
    return 1


if __name__ == "__main__":
    main()
