"""The operations of the API: what each expects and answers, and how a request becomes a call of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared_registry.api.access import CALLER, Access
from shared_registry.api.problems import LONGEST_FIELD, ApiProblem, problem_of, problem_of_validation
from shared_registry.config.admin_tokens import AdminToken, Right
from shared_registry.proxy.app import Router
from shared_registry.proxy.pool import Pool
from shared_registry.registry.facade import SharedReplicaRegistry

LONGEST_BODY = 65_536
LONGEST_QUERY = 16_384
TEXT = r"^[^\x00-\x1f\x7f]*$"
"""Texts that clients send have no control characters."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Query(BaseModel):
    """The parameters of every call."""

    model_config = ConfigDict(extra="forbid")

    pool: str = Field(default="", max_length=64, pattern=TEXT, description="The pool, if this router has several.")


class Body(BaseModel):
    """The body of a call."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation.

    Attributes:
        pool: The pool that it is about.
        caller: The name of the token's owner; empty without a token.
        path: The parameters in the path.
        query: The parameters in the query.
        body: The body, if the operation has one.
        headers: The headers, with names in lower case.
    """

    pool: Pool
    caller: str
    path: dict[str, str]
    query: Any
    body: Any
    headers: dict[str, str]

    @property
    def by(self) -> str:
        """The author of a change, for its event."""
        return self.caller or "a client of the API"

    @property
    def registry(self) -> SharedReplicaRegistry:
        """The registry of the pool."""
        return self.pool.registry


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        method: The HTTP method.
        path: The path, with parameters in braces.
        right: What a caller must be allowed to.
        name: The name, for programs that are made from the OpenAPI document.
        summary: What it does, in one sentence.
        call: Does it. It returns a document, a response with one, nothing, or the parts of an event stream.
        query: The parameters in the query.
        body: The body, if it has one.
        answer: The document that it returns, if it does; or the data of the stream's events, by their names.
        status: The status of a success.
        problems: The codes of the problems that it has besides those of each call.
        headers: The headers that it uses, with what they mean.
    """

    method: str
    path: str
    right: Right
    name: str
    summary: str
    call: Callable[[Call], Awaitable[object]] | Callable[[Call], AsyncGenerator[str, None]]
    query: type[Query] = Query
    body: type[Body] | None = None
    answer: type[BaseModel] | dict[str, type[BaseModel]] | None = None
    status: int = 200
    problems: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_stream(self) -> bool:
        """Whether it answers with an event stream."""
        return isinstance(self.answer, dict)


class Endpoint:
    """The ASGI application of one operation."""

    def __init__(self, operation: Operation, router: Router, access: Access) -> None:
        """Serve an operation of a router."""
        self._operation = operation
        self._router = router
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            call = await self._call_of(request)
        except ClientDisconnect:
            return
        except ApiProblem as problem:
            await problem.response()(scope, receive, send)
            return
        if self._operation.is_stream:
            await self._stream(call, scope, receive, send)
            return
        response = await until_gone(self._answer(call), receive)
        if response is not None:
            await response(scope, receive, send)

    async def _call_of(self, request: Request) -> Call:
        operation, token = self._operation, request.scope.get(CALLER)
        client = request.client
        now = asyncio.get_running_loop().time()
        self._access.count(token.name if isinstance(token, AdminToken) else client.host if client else "", now)
        self._access.require(operation.right, token)
        try:
            query = operation.query.model_validate(_query_of(request, operation.query))
            body = None if operation.body is None else _body_in(await _body_of(request), operation.body)
        except ValidationError as error:
            raise problem_of_validation(error) from None
        return Call(
            self._pool(query.pool),
            token.name if isinstance(token, AdminToken) else "",
            request.path_params,
            query,
            body,
            dict(request.headers),
        )

    def _pool(self, name: str) -> Pool:
        pools = self._router.pools
        pool = pools.get(name) or (next(iter(pools.values())) if not name and len(pools) == 1 else None)
        if pool is None:
            remedy = f"send the parameter pool, with one of: {', '.join(filter(None, sorted(pools))) or 'none'}"
            if name:
                raise ApiProblem("not_found", "this router has no such pool", remedy, field="pool")
            raise ApiProblem("invalid_request", "this router has several pools", remedy, field="pool")
        return pool

    async def _answer(self, call: Call) -> Response:
        operation = self._operation
        try:
            found: Any = await cast("Awaitable[object]", operation.call(call))
        except Exception as error:  # noqa: BLE001  whatever fails, the client gets an answer, and the log has it
            return _failed(operation, error).response()
        if isinstance(found, Response):
            return found
        if found is None:
            return Response(status_code=204)
        document = found.model_dump(mode="json") if isinstance(found, BaseModel) else found
        return Response(json.dumps(document), operation.status, media_type="application/json")

    async def _stream(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False

        async def work() -> None:
            nonlocal is_begun
            parts = cast("AsyncGenerator[str, None]", self._operation.call(call))
            async with contextlib.aclosing(parts) as stream:
                async for part in stream:
                    if not is_begun:
                        is_begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
                    await send({"type": "http.response.body", "body": part.encode(), "more_body": True})

        async def answer() -> Response | None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001  as above
                problem = _failed(self._operation, error)
                if not is_begun:
                    return problem.response()
                text = event_text("problem", problem.document())
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            return None

        response = await until_gone(answer(), receive)
        if response is not None:
            await response(scope, receive, send)
        elif is_begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]


def event_text(name: str, data: object, *, event_id: str = "") -> str:
    """Return an event of a stream."""
    document = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    return f"{f'id: {event_id}' + chr(10) if event_id else ''}event: {name}\ndata: {json.dumps(document)}\n\n"


async def until_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """Return the result of a work; cancel the work if the client leaves first, and return `None`."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work), asyncio.create_task(_disconnected(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _failed(operation: Operation, error: Exception) -> ApiProblem:
    problem = problem_of(error)
    if problem is None:
        logger.error("api: %s %s failed in the router itself", operation.method, operation.path, exc_info=error)
        return ApiProblem("unavailable", "the router failed; see its log", "try again at another router", retry_after=1)
    return problem


def _query_of(request: Request, model: type[Query]) -> dict[str, Any]:
    if len(request.scope["query_string"]) > LONGEST_QUERY:
        raise ApiProblem("too_large", "the query is too long", f"send at most {LONGEST_QUERY} bytes")
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        known = model.model_fields.get(name)
        if known is not None and get_origin(known.annotation) is list:
            found.setdefault(name, []).append(value)
        elif name in found:
            _refuse_twice([(name, value)] * 2)
        else:
            found[name] = value
    return found


def _body_in(text: bytes, model: type[Body]) -> Body:
    """Return a body.

    Raises:
        ApiProblem: A member is there twice.
        ValidationError: It does not have its form.
    """
    body = model.model_validate_json(text)
    json.loads(text, object_pairs_hook=_refuse_twice)
    return body


def _refuse_twice(members: list[tuple[str, object]]) -> None:
    names = [name for name, _ in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)[:LONGEST_FIELD]
        raise ApiProblem("invalid_request", f"{twice} is there twice", "send it once", field=twice)


async def _body_of(request: Request) -> bytes:
    """Return the body; that of an empty object if there is none.

    Raises:
        ApiProblem: It is too long, or no JSON.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BODY:
            raise ApiProblem("too_large", "the body is too long", f"send at most {LONGEST_BODY} bytes")
    if not body:
        return b"{}"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiProblem("not_json", "the body is not said to be JSON", "send Content-Type: application/json")
    return bytes(body)
