"""`shared-registry namespaces`: lists the namespaces of a Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import typer

from shared_registry.admin.namespaces import namespaces_of
from shared_registry.cli.access import address_document, explained
from shared_registry.cli.console import print_json, print_line, printable
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ConfigOption, JsonOption, RedisOption, given
from shared_registry.cli.tables import Column, Stack, fitted_table, output_width, print_shown
from shared_registry.store.namespaces import NamespaceRecord
from shared_registry.store.redis_url import mask_redis_url
from shared_registry.store.schema import SCHEMAS, can_use

commands = typer.Typer()


@commands.command(epilog="Examples: `shared-registry namespaces`; `shared-registry namespaces --redis URL --json`")
def namespaces(
    context: typer.Context, *, config: ConfigOption = None, redis: RedisOption = None, as_json: JsonOption = False
) -> None:
    """Show the namespaces of a Redis: schema, replicas, live routers, and the leader of each.

    A namespace of another schema, or one that this Redis user may not read, is shown with a note. All keys of the
    server are scanned, in small pieces; in a Redis Cluster, at every primary.

    --json prints one object: redis, namespace (that of the settings), and namespaces [{namespace, schema, replicas,
    live_routers, leader, is_usable, note}]. leader is the key of a router, or null. What cannot be read is null.
    is_usable says whether this version can use the namespace.
    """
    options = given(context, redis, None, as_json=as_json)
    log_to_stderr()
    settings = options.address() if config is None else options.load_with_origins(config).config
    with explained(settings):
        found = asyncio.run(namespaces_of(settings))
    if options.as_json:
        print_json({**address_document(settings), "namespaces": [_document(one) for one in found]})
    elif not found:
        print_line(f"no namespaces are at {mask_redis_url(settings.redis_url)}")
    else:
        print_shown(_table(found))


def _document(one: NamespaceRecord) -> dict[str, Any]:
    return {
        "namespace": one.name,
        "schema": one.schema,
        "replicas": one.replicas,
        "live_routers": one.live_routers,
        "leader": one.leader,
        "is_usable": one.schema is not None and can_use(one.schema),
        "note": _note(one) or None,
    }


def _table(found: Sequence[NamespaceRecord]) -> Stack:
    columns = [
        Column("namespace", [one.name for one in found]),
        Column("schema", [printable(one.schema or "-") for one in found], keep=3),
        Column("replicas", [_count(one.replicas) for one in found], is_number=True, keep=5),
        Column("routers", [_count(one.live_routers) for one in found], is_number=True, keep=4),
        Column("leader", [printable(one.leader or "-") for one in found], keep=2),
    ]
    notes = [f"{one.name}: {note}" for one in found if (note := _note(one))]
    return Stack(fitted_table(columns, output_width()), *notes)


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _note(one: NamespaceRecord) -> str:
    if one.error:
        return f"cannot be read: {printable(one.error)}"
    if one.schema is None:
        return "its meta has no schema"
    return "" if can_use(one.schema) else f"has schema {printable(one.schema)}, and this version uses {SCHEMAS}"
