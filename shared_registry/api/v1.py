"""The API under `/v1`: its operations, and their routes."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from shared_registry.api.access import Access
from shared_registry.api.announcement_calls import announcement_operations
from shared_registry.api.change_calls import change_operations
from shared_registry.api.fleet_calls import fleet_operations
from shared_registry.api.hold import hold_operation
from shared_registry.api.lease_calls import lease_operations
from shared_registry.api.operations import Endpoint, Operation
from shared_registry.api.problems import ApiProblem
from shared_registry.api.replica_calls import replica_operations
from shared_registry.proxy.app import Router


def api_operations(most_leases: int) -> list[Operation]:
    """Return all operations. `most_leases` is how many leases clients of the API may have."""
    return [
        hold_operation(most_leases),
        *lease_operations(most_leases),
        *replica_operations(),
        *change_operations(),
        *announcement_operations(),
        *fleet_operations(),
    ]


def api_routes(router: Router, access: Access, operations: Iterable[Operation]) -> list[BaseRoute]:
    """Return the routes of operations; a replica's url or name in a path may have slashes."""
    methods: dict[str, dict[str, Endpoint]] = {}
    for operation in operations:
        path = operation.path.replace("{replica}", "{replica:path}").replace("{name}", "{name:path}")
        methods.setdefault(path, {})[operation.method] = Endpoint(operation, router, access)
    longest_first = sorted(methods, key=lambda path: (path.count("/"), not path.endswith(":path}")), reverse=True)
    routes = (EndingRoute(path, ByMethod(methods[path])) for path in longest_first)
    return [*routes, Route("/v1/{rest:path}", no_such_path)]


class EndingRoute(Route):
    """A route whose path may end with a word behind a url or name, such as `/drain`.

    In a name such as `gpu/drain` the slash is percent-encoded, which the path that Starlette compares does not show.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the route is that of a request."""
        _, has_any, ending = self.path.rpartition(":path}")
        if has_any and not scope.get("raw_path", b"").endswith(ending.encode()):
            return Match.NONE, {}
        return super().matches(scope)


class ByMethod:
    """The ASGI application of one path.

    Attributes:
        methods: The methods that it has.
    """

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        """Serve operations by their methods."""
        self.methods = frozenset(endpoints)
        self._endpoints = endpoints
        self._allowed = ", ".join(sorted(endpoints))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        await wrong_method(self._allowed)(scope, receive, send)


def wrong_method(allowed: str) -> Response:
    """Return the answer to a request whose method its path does not have."""
    problem = ApiProblem("method_not_allowed", "this path has other methods", f"use one of: {allowed}")
    return problem.response({"allow": allowed})


async def no_such_path(_: Request) -> Response:
    """Answer a request for a path that the API does not have."""
    return ApiProblem("not_found", "there is no such path", "see /docs").response()
