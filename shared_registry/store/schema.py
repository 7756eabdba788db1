"""The versions of the data format, and which of them this program can use; see `lua/lib/schema.lua`, too."""

from __future__ import annotations

import re

from shared_registry._version import __version__
from shared_registry.errors import StoreRefused

SCHEMA = "2"
"""The newest schema. `shared-registry upgrade` gives it to a namespace."""
OLDEST_SCHEMA = "2"
"""The oldest schema that this version can use. A new namespace gets it, because programs of an older version may use
the namespace too: nothing shows them after a loss of all data."""
SCHEMAS = SCHEMA if OLDEST_SCHEMA == SCHEMA else f"{OLDEST_SCHEMA} to {SCHEMA}"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expect_schema(found: str | None) -> None:
    """Refuse a namespace whose schema this version cannot use. `None` is a namespace that has no data yet.

    Raises:
        StoreRefused: The schema is too old or too new, or not a schema.
    """
    if found is not None and not can_use(found):
        raise wrong_schema(found)


def wrong_schema(found: str) -> StoreRefused:
    """Return the error for a namespace whose schema this version cannot use."""
    match = _RANGE.fullmatch(found)
    version = f"shared-registry {__version__}"
    if match is None:
        remedy = "`schema` of its `meta` is not a number; set it to what it was, or use another namespace"
    elif int(match[1]) > int(SCHEMA):
        remedy = "a newer version has upgraded it; install that version here, or use another namespace"
    else:
        remedy = "upgrade it first with a version that knows both, or use another namespace, or delete the old one"
    return StoreRefused(f"this namespace has schema {found}, {version} uses schema {SCHEMAS}: {remedy}")


def expect_cluster(found: str, wanted: str) -> None:
    """Refuse a namespace of another cluster. An empty name is that of any cluster.

    Raises:
        StoreRefused: The names differ.
    """
    if found and wanted and found != wanted:
        raise wrong_cluster(found, wanted)


def wrong_cluster(found: str, wanted: str) -> StoreRefused:
    """Return the error for a namespace that belongs to another cluster."""
    return StoreRefused(
        f"this namespace belongs to the cluster {found!r}, and `cluster` of this config is {wanted!r}: use another "
        "namespace or another Redis; if it is the same cluster, see `cluster` in docs/configuration.md"
    )


def can_use(schema: str) -> bool:
    """Return whether this version can use a namespace of this schema."""
    match = _RANGE.fullmatch(schema)
    return match is not None and int(match[1]) <= int(SCHEMA) and int(OLDEST_SCHEMA) <= int(match[2] or match[1])
