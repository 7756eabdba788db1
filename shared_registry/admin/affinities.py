"""Finds the sessions whose affinity does not agree with their leases, for a check. Reads only.

No index leads from a session to its leases, and reading all leases at one instant would keep the server busy for too
long. So they are read in pieces, while sessions come and go. A session is wrong if many such reads find it wrong in the
same way, and its keys were the same before and after each of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from shared_registry.admin.inspector import Inspector
from shared_registry.store.keys import Keys
from shared_registry.store.replies import Affinity, WrongAffinity

READS = 12
"""A session that begins and ends all the time looks wrong in some reads, but not in so many, and not alike."""


async def wrong_affinities(
    reader: Inspector, keys: Keys, names: Collection[str], *, damaged: AbstractSet[str]
) -> list[WrongAffinity]:
    """Return the sessions whose affinity is wrong.

    Args:
        reader: Reads the namespace.
        keys: The keys of the namespace.
        names: The other keys of the namespace.
        damaged: The keys of the namespace whose type is wrong. Where leases cannot be read, nobody knows whether a
            session has none.

    Raises:
        StoreError: Redis did not answer in time, or a key has a wrong type.
    """
    if any(keys.leases(router) in damaged for router in await reader.listed_routers()):
        return []
    prefixes = (keys.affinity_prefix, keys.several_prefix)
    leases = await _count(reader)
    sessions = {*leases, *(name.removeprefix(one) for one in prefixes for name in names if name.startswith(one))}
    known = [one for one in sorted(sessions) if not damaged & {prefix + one for prefix in prefixes}]
    found = _disagreeing(await reader.affinities(known), leases)
    for _ in range(READS):
        if not found:
            break
        before = await reader.affinities([*found])
        leases = await _count(reader)
        after = await reader.affinities([*found])
        again = _disagreeing({one: read for one, read in after.items() if before[one] == read}, leases)
        found = {one: wrong for one, wrong in found.items() if again.get(one) == wrong}
    return [*found.values()]


async def _count(reader: Inspector) -> Mapping[str, Mapping[str, int]]:
    """Return the number of leases of each named session on each replica."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for router in await reader.listed_routers():
        leases: dict[str, str] = {}
        async for page in reader.leases(router):
            leases |= page  # a page may repeat what an earlier one had
        for lease_id, url in leases.items():
            _, _, session = lease_id.partition(":")
            if session:
                counts[session][url] += 1
    return counts


def _disagreeing(read: Mapping[str, Affinity], leases: Mapping[str, Mapping[str, int]]) -> dict[str, WrongAffinity]:
    found = {}
    for session, affinity in read.items():
        own = leases.get(session, {})
        if not _agrees(own, affinity):
            found[session] = WrongAffinity(session, affinity, dict(own))
    return found


def _agrees(own: Mapping[str, int], affinity: Affinity) -> bool:
    if not own:
        return (not affinity.url or affinity.has_end) and not affinity.several
    is_several = sum(own.values()) > 1
    counts = {one: str(count) for one, count in own.items()} if is_several else {}
    return affinity.url in own and not affinity.has_end and affinity.several == counts
