"""Gives memory back to the system that the C library keeps for later."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Give back what is free, as far as the C library can; glibc can. It takes some milliseconds.

    Imports leave much behind: the files of modules, and what is made of them. A process that imports at its start, and
    then needs little more, would keep some 2 MB.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
