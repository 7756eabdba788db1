"""`shared-registry status --from URL`: the status as one router knows it, also while Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from shared_registry.admin.observer import Overview
from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.errors import UsageError
from shared_registry.model import Leader
from shared_registry.store.reader import Head
from shared_registry.store.replica_fields import record_in

MOST_BYTES = 64_000_000
CHUNK = 65_536
MOST_REASON = 300


class PageUnreadable(Exception):
    """The router did not answer in time, or not with its status. The message says why."""


async def read_page(url: str, *, timeout_seconds: float) -> dict[str, Any]:
    """Return the document at `/status` of a router's admin address, or of the address for its clients.

    Args:
        url: Such as `http://127.0.0.1:9000`, with or without the path.
        timeout_seconds: The longest time for all of it, whatever the server sends.

    Raises:
        UsageError: The url is none.
        PageUnreadable: The router did not answer in time, or not with its status.
    """
    connection = _connection(url, timeout_seconds)
    too_late = f"{url} does not send all of its status within {timeout_seconds:g} s"
    deadline = time.monotonic() + timeout_seconds
    try:
        # The timeout of a connection limits each read only, and a lookup of a name not at all.
        async with asyncio.timeout(timeout_seconds):
            status, reason, body = await call_in_daemon_thread(lambda: _answer_of(connection, deadline))
        if status != http.client.OK:
            raise PageUnreadable(f"{url} answers with {status} {reason}{_why_refused(body)}")
        document = json.loads(body)
    except TimeoutError as error:
        raise PageUnreadable(too_late) from error
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise PageUnreadable(f"{url} cannot be read: {str(error) or type(error).__name__}") from error
    if not isinstance(document, dict) or not ({"replicas", "pools"} & document.keys()):
        raise PageUnreadable(f"{url} does not answer with a router's status")
    return document


@contextlib.contextmanager
def in_known_form() -> Iterator[None]:
    """Use a router's status within this block, whose parts may be missing, or be of other types.

    Raises:
        PageUnreadable: They are, such as those of a router of another version.
    """
    try:
        yield
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PageUnreadable(f"the router's status cannot be read ({error!r}); has it another version?") from error


def _answer_of(connection: http.client.HTTPConnection, deadline: float) -> tuple[int, str, bytes]:
    """Return the status, its reason, and the body, of which no more is read than is of use."""
    with contextlib.closing(connection):
        connection.request("GET", "/status", headers={"Accept": "application/json"})
        with contextlib.closing(connection.getresponse()) as response:  # it may own the socket by now
            body = bytearray()
            while chunk := response.read1(CHUNK):
                body += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(body) > MOST_BYTES:
                    raise http.client.HTTPException(f"it sends more than {MOST_BYTES:,} bytes")
            return response.status, response.reason, bytes(body)


def _why_refused(body: bytes) -> str:
    """Return what a router says of its refusal, such as that it asks for a token, or a guess if it is no router."""
    try:
        document = json.loads(body)
        told = [document[name] for name in ("detail", "remedy", "message") if name in document]
    except (ValueError, TypeError, RecursionError):
        told = []
    return f": {'; '.join(map(str, told))[:MOST_REASON]}" if told else "; is it a router's address?"


def _connection(url: str, timeout_seconds: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--from: {url!r} is no url: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/", "/status"):
        raise UsageError(f"--from: {url!r} must be the url of a router, such as http://127.0.0.1:9000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, port, timeout=timeout_seconds)


def pool_of(document: Mapping[str, Any], namespace: str | None) -> dict[str, Any]:
    """Return the part of a router's status that is about one registry.

    Args:
        document: The whole document.
        namespace: The namespace, or the name of the pool; may be `None` if the router serves one registry only.

    Raises:
        UsageError: The router serves no such registry, or several and none was named. The message names them.
    """
    pools = document.get("pools") or {"": document}
    wanted = [
        {**document, **one} for name, one in pools.items() if namespace in (None, name or None, one.get("namespace"))
    ]
    if len(wanted) != 1:
        names = ", ".join(str(one.get("namespace")) for one in pools.values())
        raise UsageError(f"--namespace: name one registry of this router; it serves {names}")
    return wanted[0]


@in_known_form()
def overview_of(document: Mapping[str, Any]) -> Overview:
    """Return a router's status as if it was read from Redis. Ages are by the clock of this machine.

    Raises:
        PageUnreadable: A part of the document is missing or malformed, such as of a router of another version.
    """
    leader = document["leader"]
    now = time.time()
    return Overview(
        now,
        Head(
            document["history_id"],
            document["revision"],
            leader["epoch"] if leader else 0,
            is_settling=document["is_settling"],
        ),
        leader and Leader(leader["router"], leader["epoch"], leader.get("elected_at", now)),
        0,
        document["queue"]["depth"] or 0,
        [record_in(one) for one in document["replicas"]],
        document.get("panic") or "",
    )
