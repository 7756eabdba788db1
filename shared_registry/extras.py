"""The optional parts of the package, and what is said where one of them was not installed."""

from __future__ import annotations

from importlib.util import find_spec

from shared_registry.errors import MissingExtra


def require_extra(extra: str, *modules: str) -> None:
    """Check that what a part of the package needs is installed. Imports nothing.

    Args:
        extra: The name under which pyproject.toml lists the dependencies.
        modules: The modules that the part imports.

    Raises:
        MissingExtra: One of them is not installed. The message names it, and the command that installs all of them.
    """
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise MissingExtra(
            f"not installed: {', '.join(missing)}; run: pip install 'shared-registry[{extra}]'", name=missing[0]
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # one of the packages that it lies in is not there
        return False
