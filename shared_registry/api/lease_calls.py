"""The operations on leases with a time to live."""

from __future__ import annotations

import secrets

from shared_registry.aio.completion import completed
from shared_registry.api.documents import EndQuery, LeaseDocument, LeaseRequest, Renewal
from shared_registry.api.operations import Call, Operation
from shared_registry.api.problems import ApiProblem
from shared_registry.leases import OnPosition
from shared_registry.leases.movable import MovableLease, movable_id
from shared_registry.proxy.pool import Pool

LONGEST_ID = 200


def lease_operations(most: int) -> list[Operation]:
    """Return the operations.

    Args:
        most: The most leases of clients of the API at this router.
    """

    async def acquire(call: Call) -> LeaseDocument:
        wanted: LeaseRequest = call.body
        request_id = wanted.request_id or secrets.token_hex(16)
        lease = await new_or_known(
            call,
            request_id,
            wanted.session,
            timeout_seconds=wanted.timeout_seconds,
            exclude=wanted.exclude,
            most=most,
        )
        return lease_document(call.pool, lease, request_id, _let_live(call, lease, wanted.ttl_seconds))

    return [
        Operation(
            "POST",
            "/v1/leases",
            "lease",
            "acquire_lease",
            "Acquire a slot of the least loaded replica, for a session that ends or renews it in time.",
            acquire,
            body=LeaseRequest,
            answer=LeaseDocument,
            problems=("in_use", "not_found", "saturated", "no_healthy_replica", "no_room"),
        ),
        Operation(
            "POST",
            "/v1/leases/{id}/renew",
            "lease",
            "renew_lease",
            "Let a lease live on, whichever router has it.",
            _renew,
            body=Renewal,
            answer=LeaseDocument,
            problems=("in_use", "ended"),
        ),
        Operation(
            "DELETE",
            "/v1/leases/{id}",
            "lease",
            "end_lease",
            "End a lease, whichever router has it.",
            _end,
            query=EndQuery,
            status=204,
            problems=("in_use", "ended"),
        ),
    ]


async def new_or_known(
    call: Call,
    request_id: str,
    session: str | None,
    *,
    timeout_seconds: float,
    exclude: list[str],
    most: int,
    on_position: OnPosition | None = None,
) -> MovableLease:
    """Return the lease of a request, perhaps an earlier one.

    Raises:
        ApiProblem: This router stops, or has no room.
        RegistryError: There is no slot.
        InUse: Another request of that id is under way.
    """
    expect_running(call.pool)
    lease_id = movable_id(call.caller, request_id, session)
    leases = call.registry.movable_leases
    if len(leases) >= most and leases.get(lease_id) is None:
        detail = f"clients of the API have {most} leases at this router"
        raise ApiProblem("no_room", detail, "ask another router, or raise max_api_leases", retry_after=1)
    return await call.registry.acquire_movable(
        lease_id, session, timeout=timeout_seconds, exclude=exclude, on_position=on_position
    )


def expect_running(pool: Pool) -> None:
    """Check that a router takes new leases.

    Raises:
        ApiProblem: It does not, such as while it stops.
    """
    reason = pool.not_ready_reason()
    if reason is not None:
        raise ApiProblem("unavailable", f"no leases are given now: {reason}", "ask another router", retry_after=1)


def lease_document(pool: Pool, lease: MovableLease, request_id: str | None, ttl_seconds: float | None) -> LeaseDocument:
    """Return a lease for its client."""
    replica = lease.lease.replica
    return LeaseDocument(
        id=lease.lease.id,
        url=replica.url,
        name=replica.name,
        request_id=request_id,
        ttl_seconds=ttl_seconds,
        router=pool.registry.router_key,
    )


async def _renew(call: Call) -> LeaseDocument:
    lease = await _find(call)
    return lease_document(call.pool, lease, None, _let_live(call, lease, call.body.ttl_seconds))


def _let_live(call: Call, lease: MovableLease, ttl_seconds: float) -> float | None:
    """Let a lease live so long from now on, unless a connection holds it; return how long it lives."""
    if lease.is_held:
        return None
    call.registry.movable_leases.expect(lease, ttl_seconds)
    return ttl_seconds


async def _end(call: Call) -> None:
    await completed(_end_lease(call, await _find(call)))  # a client that leaves meanwhile has said how it ended


async def _end_lease(call: Call, lease: MovableLease) -> None:
    query: EndQuery = call.query
    await call.registry.movable_leases.release(lease)
    if query.outcome is not None:
        is_ok = query.outcome == "ok"
        replica = lease.lease.replica
        await call.registry.report_outcome(replica, is_ok, query.reason, is_connected=True, client=call.by)


async def _find(call: Call) -> MovableLease:
    lease_id = call.path["id"]
    lease = None
    if len(lease_id) <= LONGEST_ID and lease_id.isascii():
        lease = await call.registry.movable_leases.find(lease_id)
    if lease is None:
        raise ApiProblem("ended", "no router has this lease: it has ended", "acquire a new one", field="id")
    return lease
