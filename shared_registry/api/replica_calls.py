"""The operations on replicas."""

from __future__ import annotations

import contextlib

from starlette.responses import Response

from shared_registry.api.documents import JsonObject, ReplicaList, SelectedReplica, SelectQuery, ShownReplica
from shared_registry.api.operations import Call, Operation
from shared_registry.api.pieces import list_response
from shared_registry.api.problems import ApiProblem
from shared_registry.errors import ConfigError, NoHealthyReplica, StoreError
from shared_registry.model import Replica
from shared_registry.store.replica_fields import Document, replica_document


def replica_operations() -> list[Operation]:
    """Return the operations."""
    return [
        Operation(
            "GET",
            "/v1/select",
            "read",
            "select_replica",
            "Choose a replica by the policy, without a slot.",
            _select,
            query=SelectQuery,
            answer=SelectedReplica,
            problems=("not_found", "no_healthy_replica"),
        ),
        Operation(
            "GET",
            "/v1/replicas",
            "read",
            "list_replicas",
            "List all replicas.",
            _list,
            answer=ReplicaList,
        ),
        Operation(
            "GET",
            "/v1/replicas/{replica}",
            "read",
            "get_replica",
            "Return one replica, by url or name.",
            _get,
            answer=ShownReplica,
            problems=("not_found",),
        ),
    ]


async def _select(call: Call) -> SelectedReplica:
    query: SelectQuery = call.query
    replica = call.registry.select(key=query.key, exclude=query.exclude)
    if replica is None:
        raise NoHealthyReplica("no replica can be selected")
    return SelectedReplica(url=replica.url, name=replica.name, primary=replica.primary)


async def _list(call: Call) -> Response:
    registry = call.registry
    await refresh_loads(call)
    others = {"revision": registry.revision, "age_seconds": registry.age_seconds}
    return await list_response("replicas", (document_of(call, one) for one in registry.all()), others)


async def _get(call: Call) -> JsonObject:
    replica = named_replica(call)
    await refresh_loads(call)
    return document_of(call, replica)


async def refresh_loads(call: Call) -> None:
    """Read the loads of the replicas, unless they were read just now or Redis is away."""
    if call.registry.is_started:
        with contextlib.suppress(StoreError):  # the list says how old it is
            await call.registry.refresh()


def named_replica(call: Call) -> Replica:
    """Return the replica that the path names.

    Raises:
        ApiProblem: There is none.
    """
    name, registry = call.path["replica"], call.registry
    remedy = "list the replicas with GET /v1/replicas"
    found: list[Replica] = []
    if "://" in name:
        with contextlib.suppress(ConfigError):
            found = [replica for replica in (registry.get(name),) if replica]
    else:
        found = [replica for replica in registry.all() if replica.name == name]
    if len(found) > 1:
        raise ApiProblem("not_found", "several replicas have this name", "give the url of one", field="replica")
    if not found:
        raise ApiProblem("not_found", "no replica has this url or name", remedy, field="replica")
    return found[0]


def document_of(call: Call, replica: Replica) -> JsonObject:
    """Return a replica for a client."""
    return replica_document(replica.record, Document.STATUS, call.registry.plan)
