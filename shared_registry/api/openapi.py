"""The OpenAPI document, made of the same operations and models by which requests are checked and answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared_registry._version import __version__
from shared_registry.api.documented_pages import PAGES, DocumentedPage
from shared_registry.api.documents import JsonObject
from shared_registry.api.operations import Operation
from shared_registry.api.problems import CONTENT_TYPE, TITLES, ProblemDocument
from shared_registry.config.admin_tokens import Right

_ANY: JsonObject = {}
REFERENCE = "#/components/schemas/{model}"
OF_EACH_CALL = ("invalid_request", "no_token", "not_allowed", "not_found", "too_large", "too_many_requests")
OF_EACH_BODY = ("not_json",)
PATH_PARAMETERS = {
    "replica": "The url or the name of a replica. In a url, `:` and `/` may be percent-encoded.",
    "name": "The name of the replica.",
    "id": "The id of the lease.",
}


def openapi_document(operations: Iterable[Operation], is_open: Callable[[Right], bool]) -> JsonObject:
    """Return the document.

    Args:
        operations: The operations.
        is_open: Whether everybody may do what a right allows.
    """
    known = list(operations)
    models: dict[type[BaseModel], None] = {ProblemDocument: None}
    for operation in known:
        models |= dict.fromkeys(_models_of(operation))
    _, found = models_json_schema(
        [(model, "serialization" if _is_answer(model, known) else "validation") for model in models],
        ref_template=REFERENCE,
    )
    paths: dict[str, JsonObject] = {}
    for operation in known:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, is_open)
    for page in PAGES:
        paths.setdefault(page.path, {})[page.method.lower()] = _page(page, is_open)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "shared_registry",
            "version": __version__,
            "description": "The API of a router's admin address. Errors are `application/problem+json`.",
        },
        "paths": paths,
        "components": {
            "schemas": found["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}, "certificate": {"type": "mutualTLS"}},
        },
    }


def _models_of(operation: Operation) -> list[type[BaseModel]]:
    answer = operation.answer
    answers = list(answer.values()) if isinstance(answer, dict) else [answer]
    return [model for model in (operation.body, *answers) if model is not None]


def _is_answer(model: type[BaseModel], operations: Iterable[Operation]) -> bool:
    return all(model is not operation.body for operation in operations)


def _described(operation: Operation, is_open: Callable[[Right], bool]) -> JsonObject:
    found: JsonObject = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs the right `{operation.right}`.",
        "tags": [operation.path.split("/")[2] if operation.path.startswith("/v1/") else "pages"],
        "parameters": _parameters(operation),
        "responses": _responses(operation),
        "security": _security(is_open=is_open(operation.right)),
    }
    if operation.body is not None:
        schema = {"$ref": REFERENCE.format(model=operation.body.__name__)}
        is_required = any(field.is_required() for field in operation.body.model_fields.values())
        found["requestBody"] = {"required": is_required, "content": {"application/json": {"schema": schema}}}
    return found


def _page(page: DocumentedPage, is_open: Callable[[Right], bool]) -> JsonObject:
    found: JsonObject = {
        "operationId": page.name,
        "summary": page.summary,
        "description": "" if page.is_open else "Needs the right `read`.",
        "tags": ["pages"],
        "parameters": [_text_in("query", name, text) for name, text in page.query.items()],
        "responses": {
            str(status): {"description": text, **({"content": {kind: {"schema": _ANY}}} if kind else {})}
            for status, (text, kind) in page.answers.items()
        },
        "security": _security(is_open=page.is_open or is_open("read")),
    }
    if not page.is_open:
        for code in ("no_token", "not_allowed"):
            status, title = TITLES[code]
            found["responses"][str(status)] = _problem(f"{title} (`{code}`)")
    if page.method == "POST":
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    return found


def _security(*, is_open: bool) -> list[JsonObject]:
    return [*([{}] if is_open else []), {"token": []}, {"certificate": []}]


def _text_in(place: str, name: str, text: str) -> JsonObject:
    return {"name": name, "in": place, "required": False, "description": text, "schema": {"type": "string"}}


def _problem(text: str) -> JsonObject:
    schema = {"$ref": REFERENCE.format(model=ProblemDocument.__name__)}
    return {"description": text, "content": {CONTENT_TYPE: {"schema": schema}}}


def _parameters(operation: Operation) -> list[JsonObject]:
    found: list[JsonObject] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    schema = operation.query.model_json_schema()
    for name, one in schema["properties"].items():
        found.append({"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": one})
    return found + [_text_in("header", name, text) for name, text in operation.headers.items()]


def _responses(operation: Operation) -> JsonObject:
    found: dict[str, JsonObject] = {str(operation.status): _success(operation)}
    codes = {*OF_EACH_CALL, *(OF_EACH_BODY if operation.body else ()), *operation.problems, "unavailable"}
    texts: dict[str, list[str]] = {}
    for code, (status, title) in TITLES.items():
        if code in codes:
            texts.setdefault(str(status), []).append(f"{title} (`{code}`)")
    return found | {status: _problem("; ".join(each)) for status, each in texts.items()}


def _event_schema(events: Mapping[str, type[BaseModel]]) -> JsonObject:
    data = [{"$ref": REFERENCE.format(model=model.__name__)} for model in dict.fromkeys(events.values())]
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": list(events)},
            "id": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": data}},
        },
    }


def _success(operation: Operation) -> JsonObject:
    answer = operation.answer
    if answer is None:
        return {"description": "Done."}
    if isinstance(answer, dict):
        names = ", ".join(f"`{name}` with {model.__name__}" for name, model in answer.items())
        text = f"Server-sent events, whose data is JSON: {names}. The schema is that of one event."
        return {"description": text, "content": {"text/event-stream": {"schema": _event_schema(answer)}}}
    schema: dict[str, Any] = {"$ref": REFERENCE.format(model=answer.__name__)}
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
