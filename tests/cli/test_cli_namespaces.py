"""The command `namespaces`: which namespaces a server holds, and who lives there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreUnavailable
from shared_registry.store import namespaces
from shared_registry.store.keys import Keys, namespace_of
from shared_registry.store.rights import rights
from tests.support.in_process import invoke
from tests.support.redis_cluster import PRIMARIES, formed
from tests.support.space import A, B, info, on_server

OwnServer = Callable[..., EmbeddedServer]


@pytest.fixture
def own(own_server: OwnServer) -> Iterator[Any]:
    """A server with two namespaces in use, one of another schema, and keys of other programs."""
    server = own_server()
    asyncio.run(fill(server))
    with Redis.from_url(server.url, decode_responses=True) as raw:
        raw.hset(Keys("older").meta, "schema", "1")
        raw.set("sr:{x}:replica:meta", "")
        raw.set("sr:{not a name}:meta", "")
        raw.mset({f"other:{number}": "" for number in range(3000)})
        raw.server = server
        yield raw


async def fill(server: EmbeddedServer) -> None:
    async with on_server(server.url, "pool") as space:
        for url in (A, B):
            await space.add(url)
        for router, seconds in (("router~1", 60), ("router~2", 60), ("router~3", 0.001)):
            await space.store_of(router).heartbeat(info(router), expiry_seconds=seconds)
        space.raw.hset(space.keys.leader, "router", "router~2")
    async with on_server(server.url, "alone") as space:
        await space.add(A)


def told(url: str) -> dict[str, dict[str, Any]]:
    done = invoke("namespaces", "--json", "--redis", url)
    assert (done.code, done.err) == (0, "")
    return {one.pop("namespace"): one for one in json.loads(done.out)["namespaces"]}


def test_namespaces_shows_who_lives_in_each(own: Any) -> None:
    found = told(own.server.url)
    assert list(found) == ["alone", "older", "pool"]
    well = {"schema": "2", "is_usable": True, "note": None}
    assert found["pool"] == {"replicas": 2, "live_routers": 2, "leader": "router~2", **well}
    assert found["alone"] == {"replicas": 1, "live_routers": 0, "leader": None, **well}

    done = invoke("namespaces", "--redis", own.server.url)
    assert [line.split() for line in done.out.splitlines()[:2]] == [
        ["namespace", "schema", "replicas", "routers", "leader"],
        ["alone", "2", "1", "0", "-"],
    ]


def test_a_namespace_of_another_schema_has_a_note(own: Any) -> None:
    older = told(own.server.url)["older"]
    assert (older["schema"], older["is_usable"]) == ("1", False)
    assert older["note"] == "has schema 1, and this version uses 2"
    done = invoke("-n", "older", "namespaces", "--redis", own.server.url)
    assert done.code == 0
    assert "older: has schema 1, and this version uses 2" in done.out


def test_a_namespace_without_rights_to_read_it_is_listed(own: Any) -> None:
    own.execute_command("ACL", "SETUSER", "reader", "on", ">pw", *rights("pool"))
    found = told(own.server.url.replace("redis://", "redis://reader:pw@"))
    assert (found["pool"]["replicas"], found["pool"]["note"]) == (2, None)
    assert found["alone"]["replicas"] is None
    assert found["alone"]["is_usable"] is False
    assert found["alone"]["note"].startswith("cannot be read: ")


def test_one_damaged_key_hides_only_its_own_number(own: Any) -> None:
    own.delete(Keys("pool").routers)
    own.set(Keys("pool").routers, "")
    pool = told(own.server.url)["pool"]
    assert (pool["live_routers"], pool["replicas"], pool["leader"]) == (None, 2, "router~2")
    assert "wrong kind of value" in pool["note"]


def test_namespaces_writes_nothing(own: Any) -> None:
    before = own.info("persistence")["rdb_changes_since_last_save"]
    told(own.server.url)
    assert own.info("persistence")["rdb_changes_since_last_save"] == before


def test_a_server_without_namespaces_says_so(own_server: OwnServer) -> None:
    done = invoke("namespaces", "--redis", own_server().url)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("no namespaces are at redis://")


def test_many_namespaces_are_read_in_pieces(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "NAMESPACES_AT_ONCE", 7)
    monkeypatch.setattr(namespaces, "KEYS_AT_ONCE", 10)
    for number in range(60):
        own.hset(Keys(f"n{number}").meta, "schema", "2")
    assert len(told(own.server.url)) == 63


async def test_a_cluster_shows_the_namespaces_of_all_primaries(own_server: OwnServer) -> None:
    try:
        cluster = await formed(own_server)
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    try:
        names = [cluster.namespace_on(shard) for shard in range(PRIMARIES)]
        for name, raw in zip(names, cluster.raws, strict=False):
            raw.hset(Keys(name).meta, "schema", "2")
        found = await asyncio.to_thread(told, cluster.url)
        assert list(found) == sorted(names)
        assert all(one["note"] is None for one in found.values())
    finally:
        cluster.close()


def test_redis_away_is_an_error() -> None:
    done = invoke("namespaces", "--redis", "redis://127.0.0.1:1/0")
    assert done.code == 3
    assert "127.0.0.1:1" in done.err


@pytest.mark.parametrize(
    ("key", "name"),
    [("sr:{a.b}:meta", "a.b"), ("sr:{a}:replicas", None), ("sr:{a b}:meta", None), ("sr:{a}:replica:x:meta", None)],
)
def test_only_meta_keys_name_a_namespace(key: str, name: str | None) -> None:
    assert namespace_of(key) == name
