"""What is said in front of a response that is passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest
from starlette.types import Message, Scope

from shared_registry.proxy.http import ClientResponse, Request
from shared_registry.proxy.replica_connection import ReplicaConnection


class Answered:
    """A replica's connection on which the whole response is there."""

    async def response(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        return 401, [(b"content-length", b"2")]

    async def body(self) -> AsyncIterator[bytes]:
        yield b"no"


@pytest.mark.parametrize(("expect", "is_closed"), [([(b"expect", b"100-continue")], True), ([], False)])
async def test_a_client_not_asked_for_its_body_is_disconnected(
    expect: list[tuple[bytes, bytes]], is_closed: bool
) -> None:
    """It may send the body all the same, or another request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("its body was not asked for")

    headers = [(b"content-length", b"5"), *expect]
    scope: Scope = {"type": "http", "method": "POST", "raw_path": b"/", "headers": headers}
    reply = ClientResponse(Request(scope, receive, silence_seconds=1.0), send)
    await reply.pass_on(cast("ReplicaConnection", Answered()))
    assert ((b"connection", b"close") in sent[0]["headers"]) is is_closed
    assert (reply.is_started, reply.is_ending, sent[-1]["more_body"]) == (True, True, False)
