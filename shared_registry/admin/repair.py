"""Repairs a namespace, as far as the wrong data can be derived from right data.

Loads are derived from leases, ready sets from hashes, membership from both, and the revision from the event stream.
Affinities are derived from leases, and sessions that wait although replicas have room are served. In a damaged hash,
counters begin anew, an unknown status is found out by probes, and optional numbers that do not parse are deleted. A
key of another type, and a capacity, a weight or a tier that does not parse, are left unchanged, because only an
operator can know the right value.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.admin.check import Violation
from shared_registry.model import is_later
from shared_registry.store.commands import Store
from shared_registry.store.reader import RECORDS_AT_ONCE

REPAIRABLE = frozenset({"load", "lease", "queue", "ready", "membership", "events", "affinity"})


async def repair(store: Store, violations: Sequence[Violation], *, by: str) -> bool:
    """Repair the violations that a check has found; return whether there was anything to repair.

    The caller should check again afterwards. A repair is safe while routers are at work, and may be repeated: all
    values are derived anew, at one instant for each replica.

    Raises:
        KeyConflict: A key of the whole namespace is of another type; nothing was changed.
        StoreUnavailable: Redis did not answer in time.
    """
    found = [violation for violation in violations if violation.rule in REPAIRABLE or violation.url]
    if not found:
        return False
    urls = sorted({violation.url for violation in found if violation.url})
    routers = sorted({violation.router for violation in found if violation.router})
    first_event = ""
    for violation in found:
        if violation.event and (not first_event or is_later(violation.event, first_event)):
            first_event = violation.event
    chunks = [urls[at : at + RECORDS_AT_ONCE] for at in range(0, len(urls), RECORDS_AT_ONCE)] or [[]]
    for chunk in chunks:
        await store.repair(urls=chunk, routers=routers, first_event=first_event, by=by)
    if sessions := sorted({violation.session for violation in found if violation.session}):
        await store.repair_affinities(sessions, by=by)
    return True
