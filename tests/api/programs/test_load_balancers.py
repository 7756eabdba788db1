"""nginx and Envoy in front of replicas, which ask routers for them: the files of examples/load_balancers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from shared_registry.model import ReplicaEndpoint
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter, all_healthy
from tests.support.backend import Backend
from tests.support.load_balancers import envoy_command, load_balancer, nginx_command
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
KINDS = ["nginx", "envoy"]


@pytest_asyncio.fixture(loop_scope="module")
async def backends() -> AsyncIterator[tuple[Backend, Backend]]:
    async with Backend() as one, Backend() as two:
        yield one, two


@contextlib.asynccontextmanager
async def balancer(kind: str, folder: Path, routers: list[RunningRouter]) -> AsyncIterator[httpx.AsyncClient]:
    """Run a load balancer that asks these two routers; yield a client for it."""
    ports = [httpx.URL(router.admin_url).port for router in routers]
    if kind == "nginx":
        changes = {f"127.0.0.1:1000{at}": f"127.0.0.1:{port}" for at, port in enumerate(ports, 1)}
        changes |= {"listen 8080": "listen 127.0.0.1:{port}", "http {\n": "http {\naccess_log off;\n"}
        command, name = nginx_command(folder), "nginx.conf"
    else:
        changes = {f"port_value: 1000{at}": f"port_value: {port}" for at, port in enumerate(ports, 1)}
        changes |= {"address: 0.0.0.0, port_value: 8080": "address: 127.0.0.1, port_value: {port}"}
        command, name = envoy_command(), "envoy.yaml"
    async with (
        load_balancer(command, name, folder, changes) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as http,
    ):
        yield http


async def two_routers(start: StartRouter, *backends: Backend) -> list[RunningRouter]:
    replicas = [ReplicaEndpoint(backend.url) for backend in backends]
    routers = [await start(replicas=replicas, is_awaited=False) for _ in range(2)]
    for router in routers:
        await until(functools.partial(all_healthy, router, len(backends)), "all replicas are healthy")
    return routers


def registry_of(router: RunningRouter) -> SharedReplicaRegistry:
    return router.router.pools[""].registry


async def spread(http: httpx.AsyncClient, count: int = 40) -> Counter[str]:
    """Return how many of some requests each replica took, by its port; or what status they got."""
    found: Counter[str] = Counter()
    for at in range(count):
        response = await http.post(f"/v1/{at}", content=b"x" * 100, headers={"X-Session-Id": f"session-{at}"})
        found[response.headers.get("x-backend") or str(response.status_code)] += 1
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_an_operator_drains_and_enables_at_any_router(
    kind: str, start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    routers = await two_routers(start_with_admin, *backends)
    one, two = (str(backend.port) for backend in backends)
    async with balancer(kind, tmp_path, routers) as http:

        async def goes_to(*wanted: str) -> None:
            async def does() -> bool:
                return set(await spread(http)) == set(wanted)

            await until(does, f"requests go to {wanted}")

        await goes_to(one, two)
        await registry_of(routers[0]).drain(backends[0].url)
        await goes_to(two)
        await registry_of(routers[1]).disable(backends[1].url)
        await goes_to("503")
        await registry_of(routers[0]).enable(backends[0].url)
        await goes_to(one)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_replica_that_dies_gets_no_more_requests(
    kind: str, start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    async with Backend() as dying:
        routers = await two_routers(start_with_admin, backends[0], dying)
        async with balancer(kind, tmp_path, routers) as http:

            async def both() -> bool:
                return set(await spread(http)) == {str(backends[0].port), str(dying.port)}

            await until(both, "requests go to both")
            await dying.__aexit__(None, None, None)

            async def only_one() -> bool:
                return set(await spread(http)) == {str(backends[0].port)}

            await until(only_one, "requests go to the one that lives")


@pytest.mark.parametrize("kind", KINDS)
async def test_one_router_of_two_is_enough(
    kind: str, start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    routers = await two_routers(start_with_admin, *backends)
    async with balancer(kind, tmp_path, routers) as http:

        async def is_served() -> bool:
            return (await http.get("/v1/x")).status_code == 200

        await until(is_served, "the load balancer knows a replica")
        routers[0].stop.ask()
        await asyncio.wait_for(asyncio.shield(routers[0].serving), SECONDS)
        assert "503" not in await spread(http)
        await registry_of(routers[1]).drain(backends[0].url)

        async def goes_to_the_other() -> bool:
            return set(await spread(http)) == {str(backends[1].port)}

        await until(goes_to_the_other, "the drain arrives by the other router")


@pytest.mark.parametrize("kind", KINDS)
async def test_without_any_router_envoy_goes_on_and_nginx_does_not(
    kind: str, start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    routers = await two_routers(start_with_admin, *backends)
    async with balancer(kind, tmp_path, routers) as http:

        async def is_served() -> bool:
            return (await http.get("/v1/x")).status_code == 200

        await until(is_served, "the load balancer knows a replica")
        for router in routers:
            router.stop.ask()
            await asyncio.wait_for(asyncio.shield(router.serving), SECONDS)

        async def is_refused() -> bool:
            return (await http.get("/v1/x")).status_code == 503

        if kind == "nginx":
            await until(is_refused, "nginx has no answer of a router any more")
        else:
            assert "503" not in await spread(http)


@pytest.mark.parametrize("kind", KINDS)
async def test_websockets_and_bodies_pass_through(
    kind: str, start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    routers = await two_routers(start_with_admin, *backends)
    async with balancer(kind, tmp_path, routers) as http:

        async def is_served() -> bool:
            return (await http.get("/v1/x")).status_code == 200

        await until(is_served, "the load balancer knows a replica")
        response = await http.post("/v1/a?b=c%20d", content=b"y" * 3_000_000)
        assert response.json()["target"] == "/v1/a?b=c%20d"
        assert len(response.json()["body"]) == 3_000_000
        assert (await http.get("/status")).status_code == 404
        url = str(http.base_url).replace("http", "ws")
        async with connect(f"{url}/v1/stream", proxy=None) as client:
            await client.send("hello")
            assert await asyncio.wait_for(client.recv(), SECONDS) == "hello"


async def test_nginx_keeps_a_session_on_its_replica(
    start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    routers = await two_routers(start_with_admin, *backends)
    async with balancer("nginx", tmp_path, routers) as http:
        first = await spread(http)
        assert len(first) == 2
        assert await spread(http) == first


async def test_envoy_follows_weights_and_tiers(
    start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    routers = await two_routers(start_with_admin, *backends)
    one, two = (str(backend.port) for backend in backends)
    registry = registry_of(routers[0])
    await registry.register(ReplicaEndpoint(backends[0].url, weight=9.0))
    async with balancer("envoy", tmp_path, routers) as http:

        async def is_uneven() -> bool:
            found = await spread(http, 200)
            return found[one] > 4 * found[two] > 0

        await until(is_uneven, "the heavier replica gets nine tenths")
        await registry.register(ReplicaEndpoint(backends[1].url, primary=True))

        async def is_first() -> bool:
            return set(await spread(http)) == {two}

        await until(is_first, "the primary gets all")
        await registry.drain(backends[1].url)

        async def has_failed_over() -> bool:
            return set(await spread(http)) == {one}

        await until(has_failed_over, "without a primary the others get all")


async def test_envoy_uses_another_replica_if_one_refuses(
    start_with_admin: StartRouter, backends: tuple[Backend, Backend], tmp_path: Path
) -> None:
    async with Backend() as dying:
        routers = await two_routers(start_with_admin, backends[0], dying)
        async with balancer("envoy", tmp_path, routers) as http:

            async def both() -> bool:
                return set(await spread(http)) == {str(backends[0].port), str(dying.port)}

            await until(both, "requests go to both")
            for router in routers:  # nobody tells Envoy any more
                router.stop.ask()
                await asyncio.wait_for(asyncio.shield(router.serving), SECONDS)
            await dying.__aexit__(None, None, None)
            await spread(http, 5)  # which may have begun on a kept connection
            assert set(await spread(http)) == {str(backends[0].port)}
