"""`/docs`: the OpenAPI document as a page for people, which needs no script and no other host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-top: 1px solid #8888; padding-top: 1rem; font-size: 1.1rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #8883 }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the page."""
    schemas = document["components"]["schemas"]
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in methods.items()
    ]
    info = document["info"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<style>{STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{_text(info['description'])} The same for programs: <a href=openapi.json>openapi.json</a>."
        f"{''.join(operations)}<h1>Documents</h1>{''.join(_schema(name, schemas[name]) for name in sorted(schemas))}"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        (one["name"], one["in"], one["schema"], one.get("description") or one["schema"].get("description", ""))
        for one in operation["parameters"]
    ]
    rows = [(_code(name), where, _type(schema), _text(text)) for name, where, schema, text in parameters]
    for kind, content in operation.get("requestBody", {"content": {}})["content"].items():
        rows.append(("", "body", _type(content["schema"]), escape(kind)))
    answers = []
    for status, answer in operation["responses"].items():
        kinds = [_type(content["schema"]) or escape(kind) for kind, content in answer.get("content", {}).items()]
        answers.append((status, " ".join(kinds), _text(answer["description"])))
    return (
        f"<h2 id={escape(operation['operationId'])}>{_code(f'{method} {path}')}</h2>"
        f"<p>{_text(operation['summary'])} {_text(operation['description'])}{_table(rows)}<p>{_table(answers)}"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (_code(member), _type(one), "" if member in required else "optional", _text(one.get("description", "")))
        for member, one in schema.get("properties", {}).items()
    ]
    return f"<h2 id={escape(name)}>{escape(name)}</h2><p>{_text(schema.get('description', ''))}{_table(rows)}"


def _type(schema: Mapping[str, Any]) -> str:
    return " or ".join(_types(schema))


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        yield f"<a href='#{name}'>{name}</a>"
    for one in schema.get("anyOf", ()):
        yield from _types(one)
    if "enum" in schema:
        yield ", ".join(_code(str(one)) for one in schema["enum"])
    elif schema.get("type") == "array":
        yield f"list of {_type(schema['items'])}"
    elif "type" in schema:
        limits = [f"{word} {schema[key]:g}" for key, word in _LIMITS.items() if key in schema]
        yield escape(" ".join([schema["type"], *limits]))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in row)}" for row in rows)
    return f"<table>{body}</table>" if rows else ""


def _text(text: str) -> str:
    """Return a text in which what stands between backquotes is code."""
    parts = text.split("`")
    return "".join(_code(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


_LIMITS = {"minimum": "from", "maximum": "to", "maxLength": "at most", "maxItems": "at most"}
