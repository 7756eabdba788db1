"""Selection policies: pure functions from replicas to the order in which to prefer them.

They run when the mirror changes, not when a session comes.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared_registry.model import Replica


def priority(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """Return the selectable replicas, primaries first, each tier in its given order.

    The original's rule: the first healthy primary, else the first healthy other.
    """
    selectable = [replica for replica in replicas if replica.record.is_selectable]
    return (
        *(replica for replica in selectable if replica.primary),
        *(replica for replica in selectable if not replica.primary),
    )
