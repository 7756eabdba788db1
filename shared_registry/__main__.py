"""The command `shared-registry`, also as `python -m shared_registry` where its script is not on the PATH."""

from __future__ import annotations

import sys

from shared_registry.errors import MissingExtra


def main() -> None:
    """Run the command, or say how to install it."""
    try:
        from shared_registry.cli import app  # noqa: PLC0415  an optional part of the package
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    app.main()


if __name__ == "__main__":
    main()
