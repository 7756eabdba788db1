"""Pieces of Python that pages show run with what the text around them assumes: a registry, a session, a client."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import Lease, ReplicaEndpoint, RouterConfig, Saturated, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.selection import policies
from tests.support.command import ROOT
from tests.support.until import until

A, B = "http://127.0.0.1:8001", "http://127.0.0.1:8002"


def fragments(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


async def run(fragment: str, **names: Any) -> dict[str, Any]:
    """Run a fragment as the body of a coroutine with these names; return the names that it has in the end."""
    space: dict[str, Any] = {"Lease": Lease, "Saturated": Saturated}
    exec(f"async def body({', '.join(names)}):\n{textwrap.indent(fragment, '    ')}\n    return locals()", space)
    found: dict[str, Any] = await space["body"](**names)
    return found


@pytest.fixture
async def registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[SharedReplicaRegistry]:
    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, None

    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint(url, capacity=1) for url in (A, B)],
        health_check_interval_seconds=0.1,
    )
    async with SharedReplicaRegistry(config, http_get=probe) as registry:
        await until(lambda: len([one for one in registry.all() if one.is_healthy]) == 2)
        yield registry


async def test_a_session_is_served_and_ends(registry: SharedReplicaRegistry) -> None:
    served = []

    async def serve(client: object, url: str) -> None:
        served.append((client, url))

    await run(fragments("placement.md")[0], registry=registry, user_id="anna", client="client", serve=serve)
    assert served in ([("client", A)], [("client", B)])
    async with await registry.acquire("anna") as lease:
        assert lease.replica.url == served[0][1]


async def test_a_session_goes_to_another_replica_that_connects(registry: SharedReplicaRegistry) -> None:
    tried: list[str] = []

    async def connect(url: str) -> str:
        tried.append(url)
        if len(tried) == 1:
            raise ConnectionRefusedError("nobody listens")
        return url

    found = await run(fragments("placement.md")[1], registry=registry, user_id="anna", connect=connect)
    assert sorted(tried) == [A, B]
    assert found["connection"] == tried[1]
    await found["lease"].release()


async def test_a_full_queue_is_reported(registry: SharedReplicaRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    [fragment] = fragments("waiting.md")
    leases = [await registry.acquire() for _ in range(2)]
    assert "timeout=30" in fragment
    await run(fragment.replace("timeout=30", "timeout=2"), registry=registry, user_id="anna")
    assert re.fullmatch(r"1 of 1\n0 still wait, try again in \S+ s\n", capsys.readouterr().out)
    for lease in leases:
        await lease.release()


async def test_a_key_chooses_a_replica(registry: SharedReplicaRegistry) -> None:
    fragment = fragments("policies.md")[0]
    found = await run(fragment, registry=registry, client_id="anna", tried=[A])
    assert found["replica"].url == B


async def test_the_policy_of_the_page_takes_the_lightest(registry: SharedReplicaRegistry) -> None:
    before = dict(policies._policies)
    try:
        exec(fragments("policies.md")[1], {"__name__": "page"})
        [name] = policies._policies.keys() - before.keys()
        await registry.register(B, weight=0.5)
        await until(lambda: getattr(registry.select(policy=name), "url", None) == B)
    finally:
        policies._policies.clear()
        policies._policies.update(before)


async def test_a_listener_of_the_page_is_called(
    registry: SharedReplicaRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    [fragment] = fragments("events.md")
    leases = [await registry.acquire() for _ in range(2)]

    async def turn_away() -> None:
        with pytest.raises(Saturated):
            await registry.acquire()

    text = fragment.replace("...\nend()", "await turn_away()\nend()")
    assert text != fragment
    await run(text, registry=registry, turn_away=turn_away)
    assert capsys.readouterr().out == "a session was turned away: no slot is free\n"
    for lease in leases:
        await lease.release()
