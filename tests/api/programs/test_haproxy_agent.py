"""HAProxy that gets its replicas from haproxy_fill.py and their states from a router's agent port."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import SECONDS, StartRouter
from tests.support.backend import Backend
from tests.support.load_balancers import EXAMPLES, haproxy_command, load_balancer
from tests.support.programs import free_port
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_haproxy_follows_drain_health_and_registration(
    start_with_admin: StartRouter, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    agent, socket = free_port(), tmp_path_factory.getbasetemp() / "h.sock"
    changes = {
        "bind :8080": "bind 127.0.0.1:{port}",
        "agent-port 11001": f"agent-port {agent}",
        "agent-inter 1s": "agent-inter 200ms",
        "replica 1-100": "replica 1-4",
        "/run/haproxy/admin.sock": str(socket),
        "maxconn 16384": "maxconn 2000",
    }
    async with Backend() as one, Backend() as two:
        router = await start_with_admin(
            replicas=[ReplicaEndpoint(one.url, capacity=2)], is_awaited=False, agent_port=agent
        )
        registry = router.router.pools[""].registry
        await until(registry.select, "the replica is healthy")
        async with (
            load_balancer(haproxy_command(), "haproxy.cfg", tmp_path, changes) as url,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as http,
        ):
            words: list[str | Path] = [
                sys.executable,
                EXAMPLES / "haproxy_fill.py",
                "--socket",
                socket,
                "--seconds",
                "0.2",
            ]
            with (tmp_path / "fill.log").open("wb") as log:
                fill = BoundProcess([*words, router.admin_url], cwd=tmp_path, output=log)
            try:

                async def goes_to(*wanted: str) -> None:
                    async def does() -> bool:
                        answers = [await http.get(f"/v1/{at}") for at in range(12)]
                        return {a.headers.get("x-backend") or str(a.status_code) for a in answers} == set(wanted)

                    await until(does, f"requests go to {wanted}")

                await goes_to(str(one.port))
                await registry.register(ReplicaEndpoint(two.url))
                await goes_to(str(one.port), str(two.port))
                await registry.drain(one.url)
                await goes_to(str(two.port))
                await registry.disable(two.url)
                await goes_to("503")
                await registry.enable(one.url)
                await goes_to(str(one.port))
                await registry.enable(two.url)
                await goes_to(str(one.port), str(two.port))
                await registry.deregister(two.url)
                await goes_to(str(one.port))
                await one.__aexit__(None, None, None)
                await goes_to("503")
            finally:
                fill.kill()


def filler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("haproxy_fill", EXAMPLES / "haproxy_fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_router_that_knows_nothing_takes_no_server_away(start_with_admin: StartRouter) -> None:
    """Such as one that was restarted while Redis is away."""
    fill = filler()
    async with Backend() as backend:
        blind = await start_with_admin(redis_url=f"redis://127.0.0.1:{free_port()}/0", is_awaited=False)
        router = await start_with_admin(backend.url)
        urls = [blind.admin_url, router.admin_url]
        assert await asyncio.to_thread(fill.replicas_of, urls, "") == {("127.0.0.1", backend.port): backend.url}
        with pytest.raises(OSError, match="does not know the replicas now"):
            await asyncio.to_thread(fill.replicas_of, urls[:1], "")
        with pytest.raises(OSError, match="KeyError"):
            await asyncio.to_thread(fill.replicas_of, urls[1:], "no-such-pool")
