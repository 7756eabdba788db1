"""docs/redis-cli.md shows what is really there: each hash that it prints has those fields on a server, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.until import until

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "redis-cli.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"\$ redis-cli HGETALL '([^']+)' \| paste - -\n((?:\S+(?: .*)?\n)+?)(?=\$|```)", GUIDE)
SOMETIMES = {"last_failure_at_ms", "last_error", "restored_from", "spec_request"}
COMMAND = re.compile(r"redis-cli ((?:[A-Z]+|'[^']*'|\S+)(?: (?:'[^']*'|[^\s|;`]+))*)")


@pytest.fixture
async def live(server: EmbeddedServer, namespace: str) -> Any:
    """Lead as the only router, with one healthy replica; yield a client that reads as redis-cli does."""

    async def answers(url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, None

    endpoint = ReplicaEndpoint("http://replica-1:8000", "replica-1", primary=True)
    config = RouterConfig(
        redis_url=server.url, namespace=namespace, replicas=[endpoint], health_check_interval_seconds=0.2
    )
    async with SharedReplicaRegistry(config, http_get=answers) as registry:
        await until(lambda: registry.is_leader and registry.select() is not None)
        with Redis.from_url(server.url, decode_responses=True) as client:
            yield client


def really(key: str, client: Any, namespace: str) -> str:
    """Return the key of this test that stands for one of the guide."""
    key = key.replace("{compose}", f"{{{namespace}}}")
    if ":router:" in key:
        [router] = client.zrange(f"sr:{{{namespace}}}:routers", 0, -1)
        key = f"sr:{{{namespace}}}:router:{router}"
    return key


@pytest.mark.parametrize(("key", "output"), SHOWN, ids=[key.rpartition("}:")[2] for key, _ in SHOWN])
async def test_every_field_in_the_guide_exists(key: str, output: str, live: Any, namespace: str) -> None:
    shown = {line.split()[0] for line in output.splitlines()}
    there = set(live.hgetall(really(key, live, namespace)))
    assert shown - SOMETIMES == there - SOMETIMES


def test_the_guide_shows_all_kinds_of_hashes() -> None:
    assert {re.sub(r".*}:(\w+).*", r"\1", key) for key, _ in SHOWN} == {"meta", "replica", "leader", "router"}


async def test_every_command_of_the_guide_works(live: Any, namespace: str) -> None:
    commands = [
        [word.strip("'") for word in re.findall(r"'[^']*'|\S+", found)]
        for found in COMMAND.findall(GUIDE)
        if found.startswith(("HGETALL", "HMGET", "ZRANGE", "XREVRANGE", "PTTL"))
    ]
    assert len(commands) >= 12
    for words in commands:
        live.execute_command(*[really(word, live, namespace) for word in words])
