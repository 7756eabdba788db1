"""What went wrong with a call of the API, as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response

from shared_registry.errors import (
    ConfigError,
    NoHealthyReplica,
    ReplicaClaimed,
    Saturated,
    StoreError,
    UnknownReplica,
    UsageError,
)
from shared_registry.leases.movable import InUse

CONTENT_TYPE = "application/problem+json"
LONGEST_TEXT = 500
LONGEST_FIELD = 64


class ProblemDocument(BaseModel):
    """What went wrong, for programs and for people."""

    type: str = Field(description="A name of the kind of problem: `urn:shared-registry:` and its code.")
    code: str = Field(description="The kind of problem, for programs.")
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What went wrong this time.")
    remedy: str = Field(description="What to do about it.")
    field: str | None = Field(default=None, description="The part of the request that is wrong.")
    holder: str | None = Field(default=None, description="Who holds what was asked for.")


TITLES = {
    "invalid_request": (400, "The request is not usable"),
    "no_token": (401, "A token is needed"),
    "not_allowed": (403, "This is not allowed"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "The method is not possible here"),
    "in_use": (409, "Another request of this id is under way"),
    "taken": (409, "Another instance holds this url"),
    "claimed": (409, "The replica is changed in another way"),
    "leaves_nothing": (409, "No replica would be left"),
    "ended": (410, "It has ended"),
    "too_large": (413, "The request is too large"),
    "not_json": (415, "The body is no JSON"),
    "too_many_requests": (429, "Too many requests"),
    "saturated": (503, "No slot is free"),
    "no_healthy_replica": (503, "No replica is healthy"),
    "no_room": (503, "This router has no room"),
    "unavailable": (503, "This router cannot do that now"),
}
"""The status and the title of each kind of problem, by its code."""


class ApiProblem(Exception):
    """A call that fails. Its text is for people.

    Attributes:
        code: The kind of problem.
        remedy: What to do about it.
        field: The part of the request that is wrong, if one is.
        retry_after: After how many seconds the call may succeed, if that is known.
        holder: Who holds what was asked for, if that is why it fails.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        remedy: str,
        *,
        field: str | None = None,
        retry_after: int | None = None,
        holder: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.remedy = remedy
        self.field = field
        self.retry_after = retry_after
        self.holder = holder

    @property
    def status(self) -> int:
        """The HTTP status."""
        return TITLES[self.code][0]

    def document(self) -> dict[str, object]:
        """Return the body."""
        status, title = TITLES[self.code]
        found = ProblemDocument(
            type=f"urn:shared-registry:{self.code}",
            code=self.code,
            title=title,
            status=status,
            detail=str(self)[:LONGEST_TEXT],
            remedy=self.remedy,
            field=self.field,
            holder=self.holder,
        )
        return found.model_dump(exclude_none=True)

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """Return the response."""
        fields = dict(headers or {})
        if self.retry_after is not None:
            fields["retry-after"] = str(self.retry_after)
        if self.status == 401:
            fields["www-authenticate"] = "Bearer"
        return Response(json.dumps(self.document()), self.status, fields, media_type=CONTENT_TYPE)


def problem_of(error: Exception) -> ApiProblem | None:
    """Return the problem that an error of the registry is; `None` if it is none of its errors."""
    if isinstance(error, ApiProblem):
        return error
    made = next((make for kind, make in _MADE_OF.items() if isinstance(error, kind)), None)
    return None if made is None else made(error)


def problem_of_validation(error: ValidationError) -> ApiProblem:
    """Return the problem of a request whose parts do not have their form."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))[:LONGEST_FIELD]
    remedy = _REMEDIES.get(first["type"], "correct it") + "; /docs describes each call"
    return ApiProblem("invalid_request", f"{field or 'body'}: {first['msg']}", remedy, field=field or None)


def _of_config(error: Exception) -> ApiProblem:
    text = str(error)
    named = _FIELD.match(text)
    return ApiProblem("invalid_request", text, "correct the request", field=named[1] if named else None)


def _of_saturation(error: Exception) -> ApiProblem:
    after = math.ceil(getattr(error, "retry_after_seconds", None) or 1)
    return ApiProblem("saturated", str(error), _WAIT, retry_after=after)


def _unavailable(error: Exception) -> ApiProblem:
    return ApiProblem("unavailable", str(error), "try again at another router, or later", retry_after=1)


_REMEDIES = {
    "missing": "send it",
    "extra_forbidden": "remove it, or correct its name",
    "json_invalid": "send one object in JSON, as UTF-8",
    "model_type": "send one object in JSON",
}
"""What to do about some kinds of errors in a request."""
_FIELD = re.compile(r"(?:replica\.)?(\w+): ")
_WAIT = "try again later, or wait with timeout_seconds"
_MADE_OF: dict[type[Exception], Callable[[Exception], ApiProblem]] = {
    InUse: lambda _: ApiProblem(
        "in_use",
        "a request of this id is under way at this router",
        "wait until it ends, or use another request_id",
        retry_after=1,
    ),
    UnknownReplica: lambda error: ApiProblem("not_found", str(error), "list the replicas with GET /v1/replicas"),
    ReplicaClaimed: lambda error: ApiProblem("claimed", str(error), "change it in the way that it came"),
    ConfigError: _of_config,
    Saturated: _of_saturation,
    NoHealthyReplica: lambda error: ApiProblem("no_healthy_replica", str(error), _WAIT, retry_after=1),
    StoreError: _unavailable,
    UsageError: _unavailable,
}
