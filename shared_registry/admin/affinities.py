"""Finds the sessions whose affinity does not agree with their leases, for a check. Reads only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from shared_registry.admin.inspector import Inspector
from shared_registry.store.keys import Keys
from shared_registry.store.reader import RECORDS_AT_ONCE


async def wrong_affinities(
    reader: Inspector, keys: Keys, names: Collection[str], *, damaged: AbstractSet[str]
) -> Sequence[str]:
    """Return the digests of sessions whose affinity is wrong; at most 200 in one call.

    All leases are read in pieces first. The sessions that then look wrong are compared again, at one instant, because
    leases come and go meanwhile.

    Args:
        reader: Reads the namespace.
        keys: The keys of the namespace.
        names: The other keys of the namespace.
        damaged: The keys of the namespace whose type is wrong. Where leases cannot be read, nobody knows whether a
            session has none.

    Raises:
        StoreError: Redis did not answer in time, or a key has a wrong type.
    """
    prefixes = (keys.affinity_prefix, keys.several_prefix)
    leases: defaultdict[str, Counter[str]] = defaultdict(Counter)
    routers = await reader.listed_routers()
    if any(keys.leases(router) in damaged for router in routers):
        return []
    for router in routers:
        async for page in reader.leases(router):
            for lease_id, url in page.items():
                _, _, session = lease_id.partition(":")
                if session:
                    leases[session][url] += 1
    sessions = sorted(
        {*leases, *(name.removeprefix(one) for one in prefixes for name in names if name.startswith(one))}
    )
    sessions = [one for one in sessions if not damaged & {prefix + one for prefix in prefixes}]
    suspects: list[str] = []
    for at in range(0, len(sessions), RECORDS_AT_ONCE):
        chunk = sessions[at : at + RECORDS_AT_ONCE]
        for session, (bound, has_end, several) in zip(chunk, await reader.affinities(chunk), strict=True):
            if not _agrees(leases[session], bound, several, has_end=has_end):
                suspects.append(session)
    return await reader.wrong_affinities(suspects[:RECORDS_AT_ONCE])


def _agrees(own: Mapping[str, int], bound: str | None, several: Mapping[str, str], *, has_end: bool) -> bool:
    if not own:
        return (bound is None or has_end) and not several
    is_several = sum(own.values()) > 1
    counts = {one: str(count) for one, count in own.items()} if is_several else {}
    return bound in own and not has_end and several == counts
