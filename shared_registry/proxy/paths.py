"""The normal form of a path, in which all spellings that some server may take for the same path are equal. Pure."""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote_to_bytes

KNOWN_PATHS, LONGEST_KNOWN = 1024, 256
"""How many paths are remembered in their normal form, and the longest of them."""
MOST_DECODINGS = 4
"""How often a path is decoded. Each proxy and server in front of a replica's application may decode it once."""
_IGNORED = bytes(range(0x21)) + b"\x7f"
"""Control characters and white space, which some servers strip from the parts of a path."""
_END = re.compile(rb"[?#\0]")
_PARAMETERS = re.compile(rb";[^/]*")


def normal_path(raw_path: bytes) -> bytes:
    """Return a path as the most lenient servers interpret it: decoded, with `..` resolved, and in lower case."""
    return _remembered(raw_path) if len(raw_path) <= LONGEST_KNOWN else _normal(raw_path)


def normal_prefix(path: bytes) -> bytes:
    """Return the beginning of paths in their normal form. A slash at its end stays, so that /a/* does not match /ab."""
    normal = normal_path(path)
    return normal + b"/" if path.endswith(b"/") and normal != b"/" else normal


def has_way_up(raw_path: bytes) -> bool:
    """Return whether a path has a `..` in any spelling: servers disagree on which path it then means.

    Some resolve it, as the normal form does. Others take it for a name, and serve what is below the path before it.
    """
    if b".." not in raw_path and b"%" not in raw_path:
        return False
    return b".." in _names(_decoded(raw_path))


@functools.lru_cache(KNOWN_PATHS)
def _remembered(raw_path: bytes) -> bytes:
    return _normal(raw_path)


def _normal(raw_path: bytes) -> bytes:
    path = _END.split(_decoded(raw_path), 1)[0] if b"%" in raw_path else raw_path
    kept: list[bytes] = []
    for name in _names(path):
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            kept.append(name)
    return b"/" + b"/".join(kept).lower()


def _names(path: bytes) -> list[bytes]:
    """Return the parts of a decoded path."""
    parts = _PARAMETERS.sub(b"", path.replace(b"\\", b"/")).split(b"/")
    return [part.strip(_IGNORED) for part in parts]


def _decoded(path: bytes) -> bytes:
    for _ in range(MOST_DECODINGS):
        decoded = unquote_to_bytes(path)
        if decoded == path:
            break
        path = decoded
    return path
