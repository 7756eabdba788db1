"""The operations that change replicas, as the commands of `shared-registry` do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from shared_registry.admin.blast_radius import blast_radius
from shared_registry.admin.replica_changes import Change, Target
from shared_registry.api.change_documents import (
    ChangeOutcome,
    CostlyChange,
    OutOfServiceQuery,
    ReasonQuery,
    RemovalQuery,
    ReplicaChange,
    RoomDocument,
    SpecChange,
)
from shared_registry.api.operations import Call, Operation
from shared_registry.api.problems import ApiProblem
from shared_registry.api.replica_calls import named_replica, refresh_loads
from shared_registry.model import AdminState

PATH = "/v1/replicas/{replica}"
DONE = {AdminState.DRAINING: Change.DRAINING, AdminState.DISABLED: Change.DISABLED}


def change_operations() -> list[Operation]:
    """Return the operations."""
    costs = ("not_found", "leaves_nothing")
    return [
        Operation(
            "PUT",
            PATH,
            "operate",
            "put_replica",
            "Register a replica, given by its url, or change a registered one. Its health and load stay.",
            _put,
            body=SpecChange,
            answer=ReplicaChange,
            problems=("not_found", "claimed"),
        ),
        Operation(
            "DELETE",
            PATH,
            "operate",
            "remove_replica",
            "Remove a replica. Config files do not bring it back.",
            _remove,
            query=RemovalQuery,
            answer=CostlyChange,
            problems=costs,
        ),
        Operation(
            "POST",
            f"{PATH}/drain",
            "operate",
            "drain_replica",
            "Let a replica finish its sessions and take no new ones.",
            _setting(AdminState.DRAINING),
            query=OutOfServiceQuery,
            answer=CostlyChange,
            problems=costs,
        ),
        Operation(
            "POST",
            f"{PATH}/disable",
            "operate",
            "disable_replica",
            "Give a replica no new sessions and no probes.",
            _setting(AdminState.DISABLED),
            query=OutOfServiceQuery,
            answer=CostlyChange,
            problems=costs,
        ),
        Operation(
            "POST",
            f"{PATH}/enable",
            "operate",
            "enable_replica",
            "Undo drain and disable.",
            _enable,
            query=ReasonQuery,
            answer=ReplicaChange,
            problems=("not_found",),
        ),
    ]


async def _put(call: Call) -> ReplicaChange:
    wanted: SpecChange = call.body
    given = wanted.model_dump(exclude_unset=True)
    name = call.path["replica"]
    changes = call.registry.changes(by=call.by)
    [spec] = await changes.plan([name if "://" in name else named_replica(call).url], lambda _: given)
    outcome = await changes.register(spec)
    return ReplicaChange(url=spec.url, name=spec.name, outcome=_present(outcome))


async def _remove(call: Call) -> CostlyChange:
    query: RemovalQuery = call.query
    target = _target(call)
    return await _out_of_service(
        call,
        Change.REMOVED,
        lambda: call.registry.changes(by=call.by).remove(target, reason=query.reason, when_drained=query.when_drained),
    )


def _setting(state: AdminState) -> Callable[[Call], Awaitable[CostlyChange]]:
    async def set_state(call: Call) -> CostlyChange:
        target = _target(call)
        return await _out_of_service(
            call,
            DONE[state],
            lambda: call.registry.changes(by=call.by).set_admin(target, state, reason=call.query.reason),
        )

    return set_state


async def _enable(call: Call) -> ReplicaChange:
    query: ReasonQuery = call.query
    target = _target(call)
    outcome = await call.registry.changes(by=call.by).set_admin(target, AdminState.ACTIVE, reason=query.reason)
    return ReplicaChange(url=target.url, name=target.name, outcome=_present(outcome))


async def _out_of_service(call: Call, wanted: Change, change: Callable[[], Awaitable[Change]]) -> CostlyChange:
    """Make a change after which a replica takes no new sessions, unless none would be left.

    Raises:
        ApiProblem: No session would find a slot then.
    """
    query: OutOfServiceQuery = call.query
    target = _target(call)
    await refresh_loads(call)
    cost = blast_radius((replica.record for replica in call.registry.all()), {target.key})
    if cost.leaves_nothing and not (query.force or query.dry_run):
        detail = f"without {target.name or target.url} no session would find a slot"
        raise ApiProblem("leaves_nothing", detail, "send force=true to do it all the same", field="force")
    outcome = wanted if query.dry_run else await change()
    return CostlyChange(
        url=target.url,
        name=target.name,
        outcome=_present(outcome),
        sessions=cost.sessions.get(target.key, 0),
        left=RoomDocument(replicas=cost.after.replicas, free_slots=cost.after.free_slots),
        is_dry_run=query.dry_run,
    )


def _target(call: Call) -> Target:
    replica = named_replica(call)
    return Target(replica.key, replica.url, replica.name, replica.record.incarnation)


def _present(outcome: Change) -> ChangeOutcome:
    """Return the outcome for a replica that is registered.

    Raises:
        ApiProblem: It is gone.
    """
    if outcome is Change.GONE:
        detail = "the replica was removed, or registered anew, meanwhile"
        raise ApiProblem("not_found", detail, "list the replicas with GET /v1/replicas", field="replica")
    return cast("ChangeOutcome", outcome.value)
