"""Repairs a namespace, as far as the wrong data can be derived from right data.

Loads are derived from leases, ready sets from hashes, membership from both, and the revision from the event stream.
Affinities are derived from leases, and sessions that wait although replicas have room are served. In a damaged hash,
counters begin anew, an unknown status is found out by probes, and optional numbers that do not parse are deleted. A
key of another type, and a capacity, a weight or a tier that does not parse, are left unchanged, because only an
operator can know the right value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from shared_registry.admin.check import Violation
from shared_registry.model import is_later
from shared_registry.store.commands import Store
from shared_registry.store.replies import WrongAffinity

URLS_AT_ONCE = 15
ROUTERS_AT_ONCE = 25
AFFINITY_URLS_AT_ONCE = 200
REPAIRABLE = frozenset({"load", "lease", "queue", "ready", "membership", "events", "affinity"})


async def repair(store: Store, violations: Sequence[Violation], *, by: str) -> bool:
    """Repair the violations that a check has found; return whether there was anything to repair.

    The caller should check again afterwards. A repair is safe while routers are at work, and may be repeated. Values
    are derived anew, at one instant for each replica; only the numbers of leases are those of the check, and nothing
    is written where the load or the session's keys have changed since.

    Raises:
        KeyConflict: A key of the whole namespace is of another type; nothing was changed.
        StoreUnavailable: Redis did not answer in time.
    """
    found = [violation for violation in violations if violation.rule in REPAIRABLE or violation.url]
    if not found:
        return False
    routers = sorted({violation.router for violation in found if violation.router})
    first_event = ""
    for violation in found:
        if violation.event and (not first_event or is_later(violation.event, first_event)):
            first_event = violation.event
    for at in range(0, max(1, len(routers)), ROUTERS_AT_ONCE):
        await store.repair(loads={}, routers=routers[at : at + ROUTERS_AT_ONCE], first_event=first_event, by=by)
    loads: dict[str, tuple[str, int] | None] = {}
    for violation in found:
        if violation.url:
            loads[violation.url] = violation.load or loads.get(violation.url)
    urls = sorted(loads)
    for at in range(0, len(urls), URLS_AT_ONCE):
        chunk = {url: loads[url] for url in urls[at : at + URLS_AT_ONCE]}
        await store.repair(loads=chunk, routers=(), first_event="", by=by)
    for chunk_of_sessions in _bounded(violation.affinity for violation in found if violation.affinity):
        await store.repair_affinities(chunk_of_sessions, by=by)
    return True


def _bounded(found: Iterable[WrongAffinity]) -> Iterator[list[WrongAffinity]]:
    """Yield them in lists that name few urls each."""
    chunk: list[WrongAffinity] = []
    size = 0
    for one in found:
        own = 1 + len(one.affinity.several) + len(one.leases)
        if chunk and size + own > AFFINITY_URLS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += own
    if chunk:
        yield chunk
