"""Verifies the invariants of a namespace while routers work on it. Reads only.

All data of one replica that must agree is read at one instant, so that a change under way is not reported as a
violation; many leases are counted several times, and so are those of a session. The scan for foreign keys and wrong
types, and the walk along the event stream, take longer. They skip entries that change meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.admin.affinities import wrong_affinities
from shared_registry.admin.inspector import SPARE_SETS, Inspection, Inspector, LeaseInspection, QueueInspection
from shared_registry.errors import KeyConflict
from shared_registry.model import LEAST_RAMP_SHARE, ORIGIN, Event, Source
from shared_registry.selection.panic import ANSWERED_SECONDS
from shared_registry.store.codec import parse_probers
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Reader
from shared_registry.store.replies import WrongAffinity

RELATIVE_TOLERANCE = 1e-9
RAMP_GRACE_SECONDS = 30.0
"""How long after the end of its ramp a replica may still lack its plain score: until the next leader sets it."""
ANSWERED_MARGIN_SECONDS = 60.0
"""How long before the end of that hour the spare sets are not checked: the clock is read after them."""
_REMEDY = "--repair restores what follows from other data; for the rest, `shared-registry add {url}` with its settings"
QUEUE_READS = 4
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Violation:
    """One invariant that does not hold.

    Attributes:
        rule: `type`, `load`, `lease`, `queue`, `ready`, `membership`, `events` or `affinity`.
        key: The Redis key that is wrong.
        message: What is wrong, for the operator.
        url: Canonical url of the replica concerned, if the violation concerns one.
        event: For a break in the event stream, the id of the event after the break.
        router: Key of the router concerned, if the violation concerns one.
        affinity: The session's keys and leases, if they do not agree.
        load: For a wrong load, the text in Redis and the number of leases.
    """

    rule: str
    key: str
    message: str
    url: str = ""
    event: str = ""
    router: str = ""
    affinity: WrongAffinity | None = None
    load: tuple[str, int] | None = None


async def find_violations(reader: Inspector, keys: Keys) -> list[Violation]:
    """Return every violation found; an empty list means that all invariants hold.

    Raises:
        StoreUnavailable: Redis did not answer in time.
    """
    types = await reader.key_types()
    found = list(_type_violations(types, keys))
    wrong = {violation.key for violation in found}
    if any(keys.is_shared(key) for key in wrong):
        return found  # scripts refuse such a namespace
    types = {key: kind for key, kind in types.items() if key not in wrong}
    urls = {key.removeprefix(keys.replica_prefix) for key in types if key.startswith(keys.replica_prefix)}
    urls |= set(await reader.urls()) | set(await reader.ready_urls())
    urls -= {key.removeprefix(keys.replica_prefix) for key in wrong}
    inspections = await reader.inspect(sorted(urls))
    now = await reader.server_time()
    for inspection in inspections:
        found += inspection_violations(inspection, keys, now=now)
    routers = [key.removeprefix(keys.leases_prefix) for key in types if key.startswith(keys.leases_prefix)]
    found += lease_violations(await reader.inspect_leases(routers, sorted(urls)), keys)
    for one in await wrong_affinities(reader, keys, types, damaged=wrong):
        text = "does not agree with the session's leases"
        found.append(Violation("affinity", keys.affinity_prefix + one.session, text, affinity=one))
    inboxes = [key.removeprefix(keys.inbox_prefix) for key in types if key.startswith(keys.inbox_prefix)]
    found += queue_violations(await _lasting_inspection(reader, inboxes), keys)
    found += [one async for one in _unreadable(reader, keys, [url for url in await reader.urls() if url in urls])]
    found += _malformed_probers(await reader.probers(), keys)
    for router, text in (await reader.damaged_routers()).items():
        what = text.removesuffix("; run `shared-registry check`")
        remedy = "the router's next heartbeat writes it anew; if it is dead, others reap it"
        found.append(Violation("membership", keys.router(router), f"{what}; {remedy}"))
    head = await reader.head()
    try:
        events = [event async for event in reader.all_events()]
    except KeyConflict as error:
        return [*found, Violation("type", keys.events, str(error))]
    found += event_violations(events, keys)
    last = events[-1].id if events else ORIGIN
    if head != await reader.head() or head.revision == last:
        return found
    if events:
        found.append(Violation("events", keys.meta, f"its revision {head.revision} is not the last event's id {last}"))
    else:
        found.append(Violation("events", keys.events, f"is empty, although the revision is {head.revision}"))
    return found


def inspection_violations(inspection: Inspection, keys: Keys, *, now: float) -> Iterator[Violation]:
    """Yield the violations of one replica. `now` is the server's time, in seconds."""
    key = keys.replica(inspection.url)
    violation = functools.partial(Violation, url=inspection.url)
    fields = inspection.fields
    yield from _membership_violations(inspection, keys)
    yield from _announcement_violations(inspection, keys)
    if fields and fields.get("admin") != "removed" and not {"weight", "capacity"} <= fields.keys():
        return  # it belongs in no set, and is named as unreadable
    try:
        weight, capacity = float(fields.get("weight", "1")), int(fields.get("capacity", "0"))
        in_flight = int(fields.get("in_flight", "0"))
    except ValueError as error:
        yield violation("type", key, f"a number does not parse: {error}; {_REMEDY.format(url=inspection.url)}")
        return
    if not 0 < weight < math.inf:
        remedy = _REMEDY.format(url=inspection.url)
        yield violation("type", key, f"weight is {weight}, must be above 0 and finite; {remedy}")
        return
    if in_flight < 0:
        yield violation("load", key, f"in_flight is {in_flight}")
    may_serve = _may_serve(fields)
    is_full = capacity > 0 and in_flight >= capacity
    is_primary = fields.get("primary") == "1"
    score = _wanted_score(inspection, in_flight, weight, now)
    wanted_primary = score if may_serve and not is_full and is_primary else None
    wanted_secondary = score if may_serve and not is_full and not is_primary else None
    if not _agree(inspection.ready_primary, wanted_primary):
        text = f"{inspection.url} has {inspection.ready_primary}, should have {wanted_primary}"
        yield violation("ready", keys.ready_primary, text)
    if not _agree(inspection.ready_secondary, wanted_secondary):
        text = f"{inspection.url} has {inspection.ready_secondary}, should have {wanted_secondary}"
        yield violation("ready", keys.ready_secondary, text)
    if inspection.is_full is not (may_serve and is_full):
        wanted = "should not be" if inspection.is_full else "should be"
        yield violation("ready", keys.full, f"{inspection.url} {wanted} in it")
    yield from _spare_violations(inspection, keys, score=None if is_full else in_flight / weight, now=now)
    yield from _ejection_violations(inspection, keys)


def _membership_violations(inspection: Inspection, keys: Keys) -> Iterator[Violation]:
    key, fields = keys.replica(inspection.url), inspection.fields
    violation = functools.partial(Violation, "membership", url=inspection.url)
    if inspection.order is not None and not fields:
        yield violation(keys.replicas, f"{inspection.url} has no hash")
    if fields and (inspection.order is None) is not (fields.get("admin") == "removed"):
        yield violation(key, f"admin is {fields.get('admin')!r}, order in replicas {inspection.order}")
    elif inspection.order is not None and fields and fields.get("order") != f"{inspection.order:.0f}":
        yield violation(key, f"order is {fields.get('order')}, order in replicas {inspection.order:.0f}")


def _announcement_violations(inspection: Inspection, keys: Keys) -> Iterator[Violation]:
    """Yield an announced replica that nothing would expire or remove, and a listed one that nobody announced."""
    fields, is_listed = inspection.fields, inspection.announced is not None or inspection.departing is not None
    violation = functools.partial(Violation, "membership", keys.announced, url=inspection.url)
    is_announced = fields.get("source") == Source.ANNOUNCED.value
    has_left = "expired_at_ms" in fields or "withdrawn_at_ms" in fields
    if is_listed and not is_announced:
        yield violation(f"{inspection.url} is listed in it or in departing, and was not announced")
    elif is_announced and not is_listed and (fields.get("admin") != "removed" or has_left):
        yield violation(f"{inspection.url} is in neither it nor departing, so nothing expires or removes it")


def _ejection_violations(inspection: Inspection, keys: Keys) -> Iterator[Violation]:
    until_ms = inspection.fields.get("ejected_until_ms", "")
    if until_ms.isdigit() and inspection.ejected != float(until_ms):
        text = f"{inspection.url} has {inspection.ejected}, should have {until_ms}, when its ejection ends"
        yield Violation("ready", keys.ejected, text, url=inspection.url)


def _may_serve(fields: Mapping[str, str]) -> bool:
    return fields.get("status") == "healthy" and fields.get("admin") == "active" and "ejected_until_ms" not in fields


def _spare_violations(inspection: Inspection, keys: Keys, *, score: float | None, now: float) -> Iterator[Violation]:
    """Yield the spare sets that do not agree with the hash. `score` is `None` for a replica without a free slot.

    A replica that has not answered for an hour stays in them until a script meets it.
    """
    fields = inspection.fields
    answered_ms = fields.get("last_ok_at_ms", "")
    wanted: dict[str, float | None] = dict.fromkeys(SPARE_SETS)
    if not _may_serve(fields) and fields.get("admin") == "active" and answered_ms.isdigit():
        if now - int(answered_ms) / 1000 > ANSWERED_SECONDS - ANSWERED_MARGIN_SECONDS:
            return
        tier = "spare_primary" if fields.get("primary") == "1" else "spare_secondary"
        wanted |= {tier: score, "spare_answered": float(answered_ms)}
    for name, value in wanted.items():
        found = inspection.spares.get(name)
        if not _agree(found, value):
            text = f"{inspection.url} has {found}, should have {value}"
            yield Violation("ready", getattr(keys, name), text, url=inspection.url)


def _wanted_score(inspection: Inspection, in_flight: int, weight: float, now: float) -> float:
    """Return the score that a ready replica must have; during a ramp, its present score if the ramp allows it."""
    plain = in_flight / weight
    found = inspection.ready_primary if inspection.ready_secondary is None else inspection.ready_secondary
    try:
        length = int(inspection.fields["slow_start_ms"]) / 1000
        since = int(inspection.fields["status_since_ms"]) / 1000
    except (KeyError, ValueError):
        return plain
    most = (in_flight + 1) / (weight * LEAST_RAMP_SHARE) - 1 / weight
    if found is None or not since - 1 <= now < since + length + RAMP_GRACE_SECONDS:
        return plain
    return min(max(found, plain), most)


def lease_violations(inspection: LeaseInspection, keys: Keys) -> Iterator[Violation]:
    """Yield loads that differ from the number of leases, and leases of routers that are not listed to be reaped."""
    for url, in_flight, count in inspection.wrong:
        text = f"in_flight is {in_flight or 'missing'}, but {count} leases name it"
        if not in_flight:
            text += f"; `shared-registry add {url}` registers the replica, or wait for the end of the sessions"
        yield Violation("load", keys.replica(url), text, url=url, load=(in_flight, count))
    for router in inspection.unlisted:
        yield Violation("lease", keys.leases(router), "its router is not listed, so nothing reaps it", router=router)


def queue_violations(inspection: QueueInspection, keys: Keys) -> Iterator[Violation]:
    """Yield waiting while replicas have room, and waiters and inboxes of routers that are not listed to be reaped."""
    if inspection.waiting and inspection.ready:
        text = f"{inspection.waiting} sessions wait, although {inspection.ready} replicas have room"
        yield Violation("queue", keys.queue, text)
    for router in inspection.unlisted:
        text = f"{router} has waiters or an inbox, but is not listed, so nothing reaps it"
        yield Violation("queue", keys.queue, text, router=router)


async def _lasting_inspection(reader: Inspector, inboxes: Sequence[str]) -> QueueInspection:
    """Return the state of the queue.

    Sessions that wait although replicas have room are read again several times, and reported only if that lasts: the
    next heartbeats may serve them.
    """
    for _ in range(QUEUE_READS):
        inspection = await reader.inspect_queue(inboxes)
        if not (inspection.waiting and inspection.ready):
            break
        await asyncio.sleep(POLL_SECONDS)
    return inspection


def event_violations(events: Sequence[Event], keys: Keys) -> Iterator[Violation]:
    """Yield each break of the event stream: an event that does not follow the previous one, or an epoch that falls."""
    for before, event in itertools.pairwise(events):
        if not event.follows(before.id, before.mark):
            yield Violation(
                "events",
                keys.events,
                f"{event.id} follows {event.previous} {event.previous_mark}, but comes after {before.id} {before.mark}",
                event=event.id,
            )
        if event.epoch < before.epoch:
            yield Violation(
                "events", keys.events, f"{event.id} has epoch {event.epoch} after {before.epoch}", event=event.id
            )


async def _unreadable(reader: Reader, keys: Keys, urls: Sequence[str]) -> AsyncIterator[Violation]:
    """Yield the registered replicas that a mirror leaves out."""
    _, damage = await reader.read_each(urls)
    for url, text in damage.items():
        what = text.removesuffix("; run `shared-registry check`")
        yield Violation("type", keys.replica(url), f"{what}; {_REMEDY.format(url=url)}", url=url)


def _malformed_probers(members: Sequence[str], keys: Keys) -> Iterator[Violation]:
    for member in members:
        if not parse_probers([member]):
            yield Violation("membership", keys.probers, f"member {member!r} is malformed")


def _type_violations(types: dict[str, str], keys: Keys) -> Iterable[Violation]:
    for key, found in sorted(types.items()):
        wanted = keys.expected_type(key)
        if wanted is None:
            yield Violation("type", key, f"is not a key of the registry (it is a {found}); move or delete it")
        elif found not in (wanted, "none"):
            yield Violation("type", key, f"is a {found}, not a {wanted}; move or delete it")


def _agree(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=RELATIVE_TOLERANCE)
