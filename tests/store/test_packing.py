"""Commands packed in C are byte for byte what redis-py makes of them in Python."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import BlockingConnectionPool, Connection
from redis.exceptions import DataError

from shared_registry.store import client
from shared_registry.store.packing import pack_in_c

OPTIONS: dict[str, Any] = {"decode_responses": True, "encoding_errors": "replace"}
PLAIN = Connection(**OPTIONS)


def packing(**options: Any) -> Connection:
    pool = BlockingConnectionPool(**OPTIONS, **options)
    pack_in_c(pool)
    connection = pool.make_connection()
    assert isinstance(connection, Connection)
    return connection


IN_C = packing()
values = st.one_of(st.text(st.characters()), st.binary(), st.integers(), st.floats(allow_nan=False))


@given(
    name=st.sampled_from(["GET", "EVALSHA", "SCRIPT LOAD", "XINFO  STREAM", b"GET", b"SCRIPT LOAD"]),
    args=st.lists(values, max_size=6),
)
def test_any_command_is_packed_like_by_redis_py(name: str | bytes, args: list[Any]) -> None:
    assert b"".join(IN_C.pack_command(name, *args)) == b"".join(PLAIN.pack_command(name, *args))


@pytest.mark.parametrize("value", ["\ud800", "x" * 100_000, b"x" * 100_000, memoryview(b"x"), "\0", "é"])
def test_unusual_values_are_packed_like_by_redis_py(value: Any) -> None:
    assert b"".join(IN_C.pack_command("SET", "key", value)) == b"".join(PLAIN.pack_command("SET", "key", value))


@pytest.mark.parametrize("value", [None, True, ["list"], {}])
def test_values_that_redis_py_refuses_are_refused_alike(value: Any) -> None:
    with pytest.raises(DataError) as expected:
        PLAIN.pack_command("SET", "key", value)
    with pytest.raises(DataError) as found:
        IN_C.pack_command("SET", "key", value)
    assert str(found.value) == str(expected.value)


def test_another_encoding_is_left_to_redis_py() -> None:
    assert b"".join(packing(encoding="latin-1").pack_command("GET", "é")).endswith(b"\xe9\r\n")


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1", "rediss://127.0.0.1", "unix:///run/redis.sock", "redis+sentinel://127.0.0.1/main"]
)
async def test_every_client_of_one_server_packs_in_c(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[tuple[object, ...]] = []

    def pack(args: tuple[object, ...]) -> bytes:
        packed.append(args)
        return b""

    monkeypatch.setattr("shared_registry.store.packing.pack_command", pack)
    clients = client.connect(url, timeout_seconds=1.0, block_seconds=1.0)
    for each in (clients.commands, clients.blocking):
        each.connection_pool.make_connection().pack_command("GET", "key")
    assert packed == [("GET", "key")] * 2
    await clients.close()
