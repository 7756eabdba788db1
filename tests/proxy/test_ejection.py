"""Replicas whose /health answers while their sessions fail: several routers eject them together, and return them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import websockets
from redis import Redis
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.probing import prober_list
from shared_registry.proxy import closing
from shared_registry.proxy.outcomes import BUSY
from shared_registry.store.keys import Keys
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend, RawBackend
from tests.support.scripted_routers import Refusing
from tests.support.space import on_server
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EJECTING: dict[str, Any] = {
    "refresh_seconds": 0.02,
    "heartbeat_seconds": 0.1,
    "router_expiry_seconds": 10.0,
    "local_cooldown_seconds": 0.0,
}
SOON_OVER = EJECTING | {"base_ejection_seconds": 1.0}


class Sick(Backend):
    """A replica whose probes succeed, and whose sessions fail while `is_sick`: as `how` says, or with that status."""

    is_sick = False
    status = 500
    broken = 0  # sessions that were accepted and failed

    async def _describe(self, request: Request) -> Response:
        return Response("out of memory", self.status) if self.is_sick else await super()._describe(request)

    async def _websocket(self, websocket: WebSocket) -> None:
        if not self.is_sick:
            await super()._websocket(websocket)
            return
        if 400 <= self.status < 600:
            await websocket.send_denial_response(Response(status_code=self.status))
            return
        await websocket.accept()
        await websocket.receive()
        self.broken += 1
        if self.status >= 1000:
            await websocket.close(self.status)
        # returning without a close breaks the connection off


@pytest_asyncio.fixture(loop_scope="module")
async def sick() -> AsyncIterator[Sick]:
    async with Sick() as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def fine() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def refusing_url() -> AsyncIterator[str]:
    """A replica's url where nobody listens."""
    async with Refusing() as refusing:
        host, port = refusing.address
        yield f"http://{host}:{port}"


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each router of this process run on a machine of its own."""
    numbers = itertools.count()
    monkeypatch.setattr(prober_list, "machine_id", lambda: f"machine-{next(numbers)}")


async def ejected(router: RunningRouter) -> list[str]:
    return [one["url"] for one in (await router.status())["replicas"] if one["ejected_until"] is not None]


async def statuses(router: RunningRouter) -> set[str]:
    return {one["status"] for one in (await router.status())["replicas"]}


async def get(router: RunningRouter, client: str, path: str = "/who") -> int:
    response = await router.http.get(path, headers={"x-forwarded-for": client})
    return response.status_code


async def until_ejected(routers: list[RunningRouter], url: str) -> None:
    async def are() -> bool:
        return all([await ejected(router) == [url] for router in routers])

    await until(are, f"{url} is ejected")


async def two_routers(start_router: StartRouter, *urls: str, **settings: Any) -> list[RunningRouter]:
    return [await start_router(*urls, **(EJECTING | settings)) for _ in range(2)]


async def fail_by_turns(routers: list[RunningRouter], url: str) -> None:
    """Send requests of two clients over all routers, until the replica is ejected."""
    turns = itertools.cycle(itertools.product(routers, ("10.9.9.1", "10.9.9.2")))

    async def is_ejected() -> bool:
        router, client = next(turns)
        await get(router, client)
        return await ejected(routers[0]) == [url]

    await until(is_ejected, "enough sessions have failed")


async def test_responses_with_500_eject_a_replica(
    start_router: StartRouter, sick: Sick, fine: Backend, server: EmbeddedServer, namespace: str
) -> None:
    routers = await two_routers(start_router, sick.url, fine.url)
    sick.is_sick = True
    await fail_by_turns(routers, sick.url)
    await until_ejected(routers, sick.url)
    assert await statuses(routers[0]) == {"healthy"}
    assert {await get(router, "10.9.9.1") for router in routers * 10} == {200}
    async with on_server(server.url, namespace) as space:
        [event] = [one async for one in space.reader.all_events() if one.kind.value == "replica_ejected"]
        assert event.record is not None
        assert event.record.key == sick.url
        assert event.reason.endswith("sessions in a row failed: HTTP 500")
        assert await find_violations(space.reader, space.keys) == []


async def test_an_ejected_replica_returns_and_serves(start_router: StartRouter, sick: Sick, fine: Backend) -> None:
    routers = await two_routers(start_router, sick.url, fine.url, **SOON_OVER)
    sick.is_sick = True
    await fail_by_turns(routers, sick.url)
    sick.is_sick = False

    async def serves() -> bool:
        response = await routers[1].http.get("/who")
        assert response.status_code == 200
        return response.headers["x-backend"] == str(sick.port)

    await until(serves, "the primary serves again")

    async def is_back() -> bool:
        return await ejected(routers[0]) == []

    await until(is_back, "the other router sees the end of the ejection too")


async def stream_until_ejected(routers: list[RunningRouter], url: str) -> tuple[int, int]:
    """Let two clients begin sessions until the replica is ejected. Return how many began, and got an answer."""
    turns = itertools.cycle(itertools.product(routers, ("10.9.9.1", "10.9.9.2")))
    begun = answered = 0

    async def is_ejected() -> bool:
        nonlocal begun, answered
        begun += 1
        router, client = next(turns)
        headers = {"x-forwarded-for": client}
        async with websockets.connect(f"{router.ws}/v1/stream", additional_headers=headers, proxy=None) as session:
            with contextlib.suppress(websockets.ConnectionClosed):
                await session.send("begin")
                answered += "begin" in str(await session.recv())
        return await ejected(routers[0]) == [url]

    await until(is_ejected, "enough sessions have failed")
    return begun, answered


@pytest.mark.parametrize("close", [0, 1011])
async def test_broken_websockets_eject_a_replica(
    start_router: StartRouter, sick: Sick, fine: Backend, close: int
) -> None:
    routers = await two_routers(start_router, sick.url, fine.url)
    sick.is_sick, sick.status = True, close
    begun, answered = await stream_until_ejected(routers, sick.url)
    assert sick.broken >= 3
    # a session may reach the other replica before the first router shows the ejection
    assert answered == begun - sick.broken


async def test_refused_handshakes_eject_a_replica(start_router: StartRouter, sick: Sick, fine: Backend) -> None:
    """Each session goes on to the next replica, so no client notices."""
    routers = await two_routers(start_router, sick.url, fine.url)
    sick.is_sick, sick.status = True, 500
    begun, answered = await stream_until_ejected(routers, sick.url)
    assert answered == begun


async def test_a_response_that_breaks_off_is_a_failure(start_router: StartRouter, fine: Backend) -> None:
    async def half(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with RawBackend(half) as broken:
        routers = await two_routers(start_router, broken.url, fine.url)
        turns = itertools.cycle(itertools.product(routers, ("10.9.9.1", "10.9.9.2")))

        async def is_ejected() -> bool:
            router, client = next(turns)
            with contextlib.suppress(httpx.RemoteProtocolError):
                await get(router, client)
            return await ejected(routers[0]) == [broken.url]

        await until(is_ejected, "enough responses have broken off")


@pytest.mark.parametrize("status", [429, 501, 503, 404])
async def test_a_busy_replica_is_not_ejected(start_router: StartRouter, sick: Sick, fine: Backend, status: int) -> None:
    routers = await two_routers(start_router, sick.url, fine.url, ejection_failures=1)
    sick.is_sick, sick.status = True, status
    for _ in range(2):
        for router, client in itertools.product(routers, ("10.9.9.1", "10.9.9.2")):
            assert await get(router, client) in ((200, status) if status in BUSY else (status,))
        await asyncio.sleep(1.1)
    assert await ejected(routers[0]) == []


@pytest.mark.parametrize("code", [1000, 1012, 1013])
async def test_a_replica_that_closes_sessions_is_not_ejected(
    start_router: StartRouter, sick: Sick, fine: Backend, code: int
) -> None:
    routers = await two_routers(start_router, sick.url, fine.url, ejection_failures=1)
    sick.is_sick, sick.status = True, code
    for _ in range(2):
        for router, client in itertools.product(routers, ("10.9.9.1", "10.9.9.2")):
            headers = {"x-forwarded-for": client}
            async with websockets.connect(f"{router.ws}/v1/stream", additional_headers=headers, proxy=None) as session:
                await session.send("begin")
                if code == closing.TRY_LATER:
                    assert await session.recv() == "begin"  # from the other replica
                    continue
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await session.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == code
        await asyncio.sleep(1.1)
    assert await ejected(routers[0]) == []


async def test_one_client_alone_ejects_nothing(start_router: StartRouter, sick: Sick, fine: Backend) -> None:
    routers = await two_routers(start_router, sick.url, fine.url, ejection_failures=2)
    sick.is_sick = True
    for _ in range(3):
        for router in routers:
            assert await get(router, "10.9.9.1, 10.0.0.1") == 500
        await asyncio.sleep(0.6)
    assert await ejected(routers[0]) == []
    await fail_by_turns(routers, sick.url)


async def test_sessions_that_succeed_elsewhere_keep_a_replica(
    start_router: StartRouter, sick: Sick, fine: Backend, server: EmbeddedServer, namespace: str
) -> None:
    """The requests of some clients break whatever replica they reach; those of others do not."""
    failing, serving = await two_routers(start_router, sick.url, fine.url, ejection_failures=2)
    keys = Keys(namespace)
    with Redis.from_url(server.url, decode_responses=True) as raw:

        async def has_succeeded() -> bool:
            """A second after a failure the next one would count, if a pause had kept others from succeeding."""
            assert await get(serving, "10.8.8.8") == 200
            return not raw.hexists(keys.replica(sick.url), "sessions_failing_since_ms")

        for turn in range(6):
            await until(has_succeeded, "a success has ended the run of failures")
            assert await get(failing, f"10.9.9.{turn}", "/answer?status=500") == 500
            assert await ejected(serving) == []
            await asyncio.sleep(0.25)
        kinds = [fields["kind"] for _, fields in raw.xrange(keys.events)]
    assert "replica_reported" in kinds


async def test_one_router_alone_passes_failures_on(start_router: StartRouter, sick: Sick, fine: Backend) -> None:
    router = await start_router(sick.url, fine.url, **EJECTING, ejection_failures=1)
    sick.is_sick = True
    for turn in range(8):
        assert await get(router, f"10.9.9.{turn}") == 500
        await asyncio.sleep(0.3)
    [first, *_] = (await router.status())["replicas"]
    assert (first["ejected_until"], first["consecutive_failures"], first["status"]) == (None, 0, "healthy")


async def test_without_a_percentage_nothing_is_ejected(start_router: StartRouter, sick: Sick, fine: Backend) -> None:
    routers = await two_routers(start_router, sick.url, fine.url, ejection_failures=1, max_ejection_percent=0.0)
    sick.is_sick = True
    for turn in range(8):
        assert await get(routers[turn % 2], f"10.9.9.{turn}") == 500
        await asyncio.sleep(0.3)
    assert await ejected(routers[0]) == []


async def test_the_last_replica_is_not_ejected(start_router: StartRouter, sick: Sick) -> None:
    routers = await two_routers(start_router, sick.url, ejection_failures=1)
    sick.is_sick = True
    for turn in range(8):
        assert await get(routers[turn % 2], f"10.9.9.{turn}") == 500
        await asyncio.sleep(0.3)
    assert await ejected(routers[0]) == []


@contextlib.asynccontextmanager
async def members(
    server: EmbeddedServer, namespace: str, replicas: list[ReplicaEndpoint], count: int, **settings: Any
) -> AsyncIterator[list[SharedReplicaRegistry]]:
    """Routers as applications have them, which report outcomes themselves."""
    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=replicas,
        health_check_interval_seconds=0.2,
        fast_interval_seconds=0.05,
        **(EJECTING | settings),
    )
    async with contextlib.AsyncExitStack() as stack:
        routers = [SharedReplicaRegistry(config) for _ in range(count)]
        for router in routers:
            await stack.enter_async_context(router)
        await until(lambda: all(one.is_healthy for router in routers for one in router.all()))
        yield routers


@pytest.mark.usefixtures("machines")
async def test_a_port_that_refuses_sessions_of_two_machines_is_ejected(
    server: EmbeddedServer, namespace: str, fine: Backend, refusing_url: str
) -> None:
    """Its probes go to another port, which answers."""
    refusing = ReplicaEndpoint(refusing_url, primary=True, health_check_port=fine.port)
    async with members(server, namespace, [refusing, ReplicaEndpoint(fine.url)], 3) as routers:
        for turn in itertools.count():
            router = routers[turn % 2]
            chosen = router.select()
            assert chosen is not None
            if chosen.url == fine.url:
                break
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", int(chosen.url.rpartition(":")[2]))
            await router.report_outcome(chosen, False, "refused")
            await asyncio.sleep(0.05)
        await until(lambda: all(router.select() is not None for router in routers))
        await until(lambda: {router.select().url for router in routers} == {fine.url})  # type: ignore[union-attr]
        assert all(one.is_healthy for one in routers[2].all())


async def test_routers_of_one_machine_do_not_eject(
    server: EmbeddedServer, namespace: str, fine: Backend, refusing_url: str
) -> None:
    refusing = ReplicaEndpoint(refusing_url, primary=True, health_check_port=fine.port)
    async with members(server, namespace, [refusing, ReplicaEndpoint(fine.url)], 2) as routers:
        for turn in range(20):
            router = routers[turn % 2]
            await router.report_outcome(router.all()[0], False, "refused")
            await asyncio.sleep(0.1)
        assert not any(one.is_ejected for router in routers for one in router.all())


@pytest.mark.usefixtures("machines")
async def test_a_waiting_session_gets_the_slot_of_a_returned_replica(
    server: EmbeddedServer, namespace: str, fine: Backend, sick: Sick
) -> None:
    replicas = [ReplicaEndpoint(one.url, capacity=1) for one in (fine, sick)]
    async with members(server, namespace, replicas, 2, base_ejection_seconds=1.0) as routers:
        out = next(one for one in routers[0].all() if one.url == sick.url)

        async def is_ejected() -> bool:
            for router in routers:
                await router.report_outcome(out, False, "refused")
            return out.is_ejected

        await until(is_ejected)
        lease = await routers[0].acquire()
        assert lease.replica.url == fine.url
        waited = await routers[1].acquire(timeout=20)
        assert waited.replica.url == sick.url
        assert not waited.is_spare
        for one in (lease, waited):
            await one.release()
