"""`/v1/pick`: names the replica for a session in headers, for a proxy that asks before it connects, such as nginx."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shared_registry.api.pools import can_tell, pool_named
from shared_registry.api.problems import ApiProblem
from shared_registry.errors import UsageError
from shared_registry.proxy.app import Router
from shared_registry.urls import DEFAULT_PORTS

KEY_HEADER = "x-session-key"
MOST_CHARACTERS = 4096
"""The longest key."""


def pick(router: Router) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint. It answers from memory, holds nothing, and counts nothing: see `select()`.

    200 has `X-Replica` (host and port) and `X-Replica-Url`. 503 says that no replica can be selected. The key of the
    session is in `?key=` or `X-Session-Key`; `?policy=` replaces the policy of the settings, `?pool=` names the pool.
    """

    async def respond(request: Request) -> Response:
        query = request.query_params
        pool = pool_named(router, query.get("pool", ""))
        if pool is None:
            return ApiProblem(
                "not_found", "this router has no such pool", "name one with ?pool=", field="pool"
            ).response()
        key = query.get("key") or request.headers.get(KEY_HEADER) or None
        if key is not None and len(key) > MOST_CHARACTERS:
            detail = f"a key may have {MOST_CHARACTERS} characters"
            return ApiProblem("invalid_request", detail, "send a digest of it", field="key").response()
        try:
            replica = pool.registry.select(key=key, policy=query.get("policy") or None)
        except UsageError as error:
            return ApiProblem("invalid_request", str(error), "name another policy", field="policy").response()
        if replica is None or not can_tell(pool):
            detail = "no replica can be selected now"
            return ApiProblem("no_healthy_replica", detail, "try again later", retry_after=1).response()
        origin = replica.key
        headers = {"X-Replica": _address_of(origin), "X-Replica-Url": origin}
        return JSONResponse({"url": origin, "name": replica.name}, headers=headers)

    return respond


def _address_of(origin: str) -> str:
    parts = urlsplit(origin)
    return parts.netloc if parts.port else f"{parts.netloc}:{DEFAULT_PORTS[parts.scheme]}"
