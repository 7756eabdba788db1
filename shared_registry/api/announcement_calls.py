"""The operations of programs that announce a replica: announce, heartbeat, withdraw."""

from __future__ import annotations

from typing import NoReturn

from shared_registry.api.change_documents import (
    AnnouncementRequest,
    AnnouncementState,
    HeartbeatRequest,
    WithdrawalQuery,
)
from shared_registry.api.operations import Call, Operation
from shared_registry.api.problems import ApiProblem
from shared_registry.config import validate_endpoint
from shared_registry.config.rules import check_name
from shared_registry.model import ReplicaEndpoint
from shared_registry.store.replies import AnnouncedAs, BeatWord, Withdrawn
from shared_registry.urls import canonical_url

PATH = "/v1/announcements/{name}"
AGAIN = "announce it with PUT"


def announcement_operations() -> list[Operation]:
    """Return the operations."""
    return [
        Operation(
            "PUT",
            PATH,
            "announce",
            "announce_replica",
            "Register a replica for an instance of it, or change its spec; it counts as a heartbeat.",
            _announce,
            body=AnnouncementRequest,
            answer=AnnouncementState,
            problems=("taken", "claimed", "ended"),
        ),
        Operation(
            "POST",
            f"{PATH}/heartbeat",
            "announce",
            "send_heartbeat",
            "Keep an announced replica in service for its time to live.",
            _beat,
            body=HeartbeatRequest,
            answer=AnnouncementState,
            problems=("not_found", "taken", "claimed", "ended"),
        ),
        Operation(
            "DELETE",
            PATH,
            "announce",
            "withdraw_replica",
            "Take an announced replica out of service and remove it.",
            _withdraw,
            query=WithdrawalQuery,
            answer=AnnouncementState,
            problems=("not_found", "taken"),
        ),
    ]


async def _announce(call: Call) -> AnnouncementState:
    wanted: AnnouncementRequest = call.body
    name = call.path["name"]
    check_name(name, "name")
    owner = check_name(wanted.owner, "owner") if wanted.owner else name
    spec = wanted.model_dump(exclude={"url", "instance", "owner", "ttl_seconds"}) | {"name": name}
    endpoint = validate_endpoint(ReplicaEndpoint(wanted.url), "replica", spec)
    found = await call.registry.announcements.announce(
        canonical_url(endpoint.url),
        endpoint,
        owner=owner,
        instance=wanted.instance,
        ttl_seconds=wanted.ttl_seconds,
        by=call.caller,
    )
    if found.result is AnnouncedAs.TAKEN:
        _refuse_taken(found.holder)
    if found.result is AnnouncedAs.CLAIMED:
        _refuse_claimed(found.source)
    if not found.is_accepted:
        _refuse_ended(is_removed=found.result is AnnouncedAs.REMOVED)
    return AnnouncementState(state="held")


async def _beat(call: Call) -> AnnouncementState:
    wanted: HeartbeatRequest = call.body
    beat = await call.registry.announcements.beat(canonical_url(wanted.url), wanted.instance)
    if beat.word is BeatWord.UNKNOWN:
        raise ApiProblem("not_found", "the replica is not announced, or has expired", AGAIN, field="url")
    if beat.word is BeatWord.TAKEN:
        _refuse_taken(beat.holder)
    if beat.word is BeatWord.CLAIMED:
        _refuse_claimed(beat.source)
    if beat.word in (BeatWord.REMOVED, BeatWord.WITHDRAWN):
        _refuse_ended(is_removed=beat.word is BeatWord.REMOVED)
    return AnnouncementState(state="held" if beat.word is BeatWord.HELD else "draining", in_flight=beat.in_flight)


async def _withdraw(call: Call) -> AnnouncementState:
    query: WithdrawalQuery = call.query
    found = await call.registry.announcements.withdraw(
        canonical_url(query.url),
        query.instance,
        by=call.by,
        reason=query.reason,
        when_drained=query.when_drained,
    )
    if found.result is Withdrawn.TAKEN:
        _refuse_taken(found.holder)
    if found.result is Withdrawn.NOT_FOUND:
        raise ApiProblem("not_found", "no announced replica has this url", "nothing is left to do", field="url")
    return AnnouncementState(state="removed" if found.result is Withdrawn.REMOVED else "draining")


def _refuse_taken(holder: str) -> NoReturn:
    remedy = "end the other instance, or try again after its time to live"
    raise ApiProblem("taken", f"the url is held by {holder}, which is alive", remedy, field="url", holder=holder)


def _refuse_claimed(source: str) -> NoReturn:
    detail = f"the replica came by {source or 'another way'}, and not by an announcement"
    raise ApiProblem("claimed", detail, "remove it first", field="url", holder=source)


def _refuse_ended(*, is_removed: bool) -> NoReturn:
    detail = "an operator has removed this instance" if is_removed else "this instance was withdrawn"
    raise ApiProblem("ended", detail, "announce another instance", field="instance")
