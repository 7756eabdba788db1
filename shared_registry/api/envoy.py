"""`/v3/discovery:endpoints`: Envoy's REST endpoint discovery (xDS v3), so that Envoy uses replicas as routers do.

Envoy asks every `refresh_delay`, and names the version that it has. Every router answers the same version for the same
replicas, so that Envoy may ask any of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from shared_registry.aio.breath import Breath
from shared_registry.api.addresses import Addresses
from shared_registry.api.pools import can_tell, pool_named
from shared_registry.api.problems import ApiProblem
from shared_registry.api.service_state import Service, service_state
from shared_registry.model import ReplicaRecord
from shared_registry.proxy.app import Router
from shared_registry.proxy.pool import Pool
from shared_registry.urls import DEFAULT_PORTS

TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
MOST_CLUSTERS = 100
WEIGHT = 100
"""The weight in Envoy of a replica whose weight is 1; Envoy has whole numbers only, from 1."""
MOST_WEIGHT = 100_000
"""The highest weight in Envoy, whose sum over a cluster must be below 2 ** 32."""
HEALTH = {
    Service.READY: "HEALTHY",
    Service.SPARE: "DEGRADED",
    Service.DRAINING: "DRAINING",
    Service.DOWN: "UNHEALTHY",
    Service.DISABLED: "UNHEALTHY",
}
"""Envoy uses degraded endpoints only where the healthy ones do not suffice."""


def discovery(router: Router) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint. A cluster has the name of a pool; a router without pools answers for any name.

    304 says that nothing has changed. 503 says that this router does not know enough now; Envoy then keeps what it has.
    """
    addresses = {name: Addresses() for name in router.pools}

    async def respond(request: Request) -> Response:
        wanted = await _request_of(request)
        if wanted is None:
            remedy = f"send a DiscoveryRequest in JSON with at most {MOST_CLUSTERS} resource_names"
            return ApiProblem("invalid_request", "the body is no DiscoveryRequest", remedy).response()
        names, version = wanted
        resources: list[Any] = []
        for name in names:
            pool = pool_named(router, name)
            if pool is None:
                continue
            if not can_tell(pool):
                detail = "this router does not know the replicas now"
                return ApiProblem("unavailable", detail, "ask another router, or later", retry_after=1).response()
            resources.append(await _assignment(name, pool, addresses[pool.name]))
        text = json.dumps(resources, sort_keys=True, separators=(",", ":"))
        found = hashlib.sha256(text.encode()).hexdigest()[:16]
        if found == version:
            return Response(status_code=304)
        return JSONResponse({"version_info": found, "type_url": TYPE, "resources": resources})

    return respond


async def _request_of(request: Request) -> tuple[list[str], str] | None:
    """Return the names of the clusters, and the version that Envoy has; `None` if the request is no such one."""
    try:
        document: Any = json.loads(await request.body())  # some 77 kB: Envoy lists all its extensions each time
    except (ValueError, RecursionError, ClientDisconnect):
        return None
    if not isinstance(document, dict):
        return None
    # Protocol buffers allow either spelling in JSON.
    names: Any = document.get("resource_names", document.get("resourceNames", []))
    version: Any = document.get("version_info", document.get("versionInfo", ""))
    if not isinstance(names, list) or len(names) > MOST_CLUSTERS or not isinstance(version, str):
        return None
    if not all(isinstance(name, str) and _can_be_answered(name) for name in names):
        return None
    return list(dict.fromkeys(names)), version


def _can_be_answered(name: str) -> bool:
    """Whether a name has no half of a surrogate pair, which JSON can write but UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _assignment(name: str, pool: Pool, addresses: Addresses) -> dict[str, Any]:
    """Return the ClusterLoadAssignment of a pool: primaries have priority 0, and the others 1."""
    registry, breath = pool.registry, Breath()
    panic = registry.panic
    spares = frozenset[str]() if panic is None else frozenset(one.key for one in panic.spares)
    tiers: tuple[list[Any], list[Any]] = ([], [])
    replicas = sorted(registry.all(), key=lambda one: one.key)
    found = await addresses.of(_host_and_port(one.key)[0] for one in replicas)
    for replica in replicas:
        await breath.pause()
        host, port = _host_and_port(replica.key)
        if (address := found.get(host)) is not None:
            record = replica.record
            health = HEALTH[service_state(record, spares).service]
            tiers[0 if record.endpoint.primary else 1].append(_endpoint(record, address, port, health))
    groups: Iterable[list[Any]] = (tier for tier in tiers if tier)
    return {
        "@type": TYPE,
        "cluster_name": name,
        "endpoints": [{"priority": at, "lb_endpoints": tier} for at, tier in enumerate(groups)],
    }


def _endpoint(record: ReplicaRecord, address: str, port: int, health: str) -> dict[str, Any]:
    labels = dict(record.endpoint.labels)
    metadata: dict[str, Any] = {"envoy.lb": labels} if labels else {}
    if record.key.startswith("https:"):
        metadata["envoy.transport_socket_match"] = {"tls": True}
    found: dict[str, Any] = {
        "endpoint": {
            "address": {"socket_address": {"address": address, "port_value": port}},
            "hostname": _host_and_port(record.key)[0],
        },
        "health_status": health,
        "load_balancing_weight": min(MOST_WEIGHT, max(1, round(record.endpoint.weight * WEIGHT))),
    }
    return found | ({"metadata": {"filter_metadata": metadata}} if metadata else {})


def _host_and_port(origin: str) -> tuple[str, int]:
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
