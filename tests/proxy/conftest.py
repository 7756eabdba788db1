"""Routers for tests: in this process where that is enough, as processes where memory and signals matter.

The tests of a module share an event loop, and most of them a router: a quarter of a second to start and end one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvloop

from shared_registry.aio.stop_signals import StopRequest
from shared_registry.api.address import admin_address
from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import server as router_server
from shared_registry.proxy.app import Router
from tests.support.backend import Backend
from tests.support.command import Running, running
from tests.support.until import until

SECONDS = 20.0
"""Within which what is waited for has to come, on a busy machine too."""
FAST: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "admin_port": "off",
    "health_check_interval_seconds": 0.2,
    "fast_interval_seconds": 0.05,
    "refresh_seconds": 0.1,
    "connect_timeout_seconds": 1.0,
    "grace_seconds": 0.0,
    "routes": '[{"path": "/*", "place": "lease"}]',
}
"""Settings of routers that act at once, and acquire a slot for every request."""

PATIENT: dict[str, Any] = {
    "connect_timeout_seconds": 60.0,
    "health_check_interval_seconds": 60.0,
    "redis_timeout_seconds": 30.0,
}
"""For hundreds of clients that share one event loop with router and replica: each waits long for its turn."""


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of this folder on the event loop of `shared-registry serve`."""
    return {"serving": asyncio.new_event_loop if sys.platform == "win32" else uvloop.new_event_loop}


class RunningRouter:
    """A router in this process.

    Attributes:
        url: Where it serves.
        admin_url: Its admin address; empty if it has none.
        http: A client that is meant for it.
        router: The router itself.
    """

    def __init__(
        self, url: str, http: httpx.AsyncClient, stop: StopRequest, serving: asyncio.Task[None], router: Router
    ) -> None:
        self.router = router
        self.admin_url = ""
        self.url = url
        self.http = http
        self.stop = stop
        self.serving = serving

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws")

    @property
    def address(self) -> tuple[str, int]:
        parts = httpx.URL(self.url)
        return parts.host, parts.port or 80

    async def status(self) -> dict[str, Any]:
        """Return what /status shows; ask again where a short time limit of the test ended the request."""
        while (response := await self.http.get("/status")).status_code == 504:
            pass
        found: dict[str, Any] = response.json()
        return found


StartRouter = Callable[..., Awaitable[RunningRouter]]


@pytest_asyncio.fixture(loop_scope="module")
async def start_router(server: EmbeddedServer, namespace: str) -> AsyncIterator[StartRouter]:
    """Start a router in front of replicas, given by url; wait until all of them are healthy, unless told not to."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            *replicas: str, is_awaited: bool = True, verify: ssl.SSLContext | bool = True, **settings: Any
        ) -> RunningRouter:
            endpoints = [ReplicaEndpoint(url, primary=at == 0) for at, url in enumerate(replicas)]
            config = RouterConfig(
                **{"redis_url": server.url, "namespace": namespace, "replicas": endpoints, **FAST, **settings}
            )
            router = await stack.enter_async_context(running_router(config, verify=verify))
            if is_awaited:
                await until(lambda: all_healthy(router, len(replicas)), "all replicas are healthy")
            return router

        yield start


@contextlib.asynccontextmanager
async def running_router(config: RouterConfig, *, verify: ssl.SSLContext | bool = True) -> AsyncIterator[RunningRouter]:
    stop = StopRequest()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    found: asyncio.Future[Router] = asyncio.get_running_loop().create_future()

    async def find(router: Router) -> None:
        found.set_result(router)

    with admin_address(config) as admin:
        works = [find, *admin.works]
        serving = asyncio.create_task(
            router_server.serve_clients(config, stop, on_listening=listening.set_result, beside=works)
        )
        url = await listening
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS, verify=verify) as http:
            running = RunningRouter(url, http, stop, serving, await found)
            running.admin_url = admin.url
            try:
                yield running
            finally:
                stop.ask()
                stop.ask()
                await serving


async def all_healthy(router: RunningRouter, count: int) -> bool:
    ready, status = await router.http.get("/readyz"), await router.http.get("/status")
    if ready.status_code != 200 or status.status_code != 200:  # with a short time limit, on a busy machine
        return False
    statuses = [replica["status"] for replica in status.json()["replicas"]]
    return statuses == ["healthy"] * count


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(server: EmbeddedServer) -> AsyncIterator[tuple[RunningRouter, Backend]]:
    """One router in front of one replica for all tests of a module that do no harm to either."""
    async with Backend() as backend, router_of_its_own(server, backend.url) as router:
        yield router, backend


@contextlib.asynccontextmanager
async def router_of_its_own(server: EmbeddedServer, replica: str) -> AsyncIterator[RunningRouter]:
    """Run a router in front of one replica, in a namespace that nobody else uses."""
    namespace = f"shared.{secrets.token_hex(6)}"
    endpoints = [ReplicaEndpoint(replica, primary=True)]
    own: dict[str, Any] = {
        "redis_url": server.url,
        "namespace": namespace,
        "replicas": endpoints,
        "lease_seconds": 60.0,
    }
    async with running_router(RouterConfig(**FAST, **own)) as router:
        await until(lambda: all_healthy(router, 1), "the replica is healthy")
        yield router


@pytest.fixture
def backend(shared: tuple[RunningRouter, Backend]) -> Backend:
    """The replica behind `router`, as if new."""
    _, backend = shared
    backend.forget()
    return backend


@pytest.fixture
def router(shared: tuple[RunningRouter, Backend], backend: Backend) -> RunningRouter:
    """A router in front of `backend`."""
    return shared[0]


async def until_idle(router: RunningRouter) -> None:
    """Wait until the router has no session and no replica has a slot taken."""

    async def is_idle() -> bool:
        status = await router.status()
        return status["sessions"] == 0 and not any(one["in_flight"] for one in status["replicas"])

    await until(is_idle, "no session and no slot is left")


class RouterProcess:
    """`shared-registry serve` as its user runs it."""

    def __init__(self, command: Running) -> None:
        self.command = command

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far. The last line may be half written; it is read as soon as it has its end."""
        complete, _, _ = self.command.err.rpartition("\n")
        return [json.loads(line) for line in complete.splitlines() if line.startswith("{")]

    @property
    def url(self) -> str:
        return next(str(line["url"]) for line in self.lines if "url" in line)

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws")

    @property
    def admin_url(self) -> str:
        return next(str(line["admin_url"]) for line in self.lines if "admin_url" in line)

    def has_said(self, text: str) -> bool:
        return any(text in line["message"] for line in self.lines)

    def memory(self) -> int:
        """Return the most bytes that were ever resident."""
        status = Path(f"/proc/{self.command.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


StartProcess = Callable[..., Awaitable[RouterProcess]]


@pytest.fixture
def start_process(server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[StartProcess]:
    """Start a router as a process, in front of replicas; wait until it selects one, or has said `wanted`."""
    with contextlib.ExitStack() as stack:

        async def start(
            *replicas: str,
            wanted: str = "",
            open_files: str = "",
            words: Sequence[str] = (),
            environ: Mapping[str, str] = MappingProxyType({}),
            **settings: Any,
        ) -> RouterProcess:
            chosen = FAST | {"redis_url": server.url, "namespace": namespace} | settings
            variables = {f"SHARED_REGISTRY_{name.upper()}": str(value) for name, value in chosen.items()} | dict(
                environ
            )
            if replicas or not words:
                variables["SHARED_REGISTRY_REPLICAS"] = ",".join(replicas)
            process = RouterProcess(
                stack.enter_context(running(tmp_path, "--json", "serve", *words, open_files=open_files, **variables))
            )
            wanted = wanted or ("new sessions go to" if replicas else "has joined")

            async def is_up() -> bool:
                assert process.command.process.poll() is None, process.command.err
                return process.has_said(wanted)

            await until(is_up, "the router process is up")
            return process

        yield start
