"""A process that forks as pre-fork servers do, and prints what became of its registries.

Called with scenario, url and namespace. Each scenario returns what is printed, as one line of JSON. Children tell their
parent through pipes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from shared_registry import (
    RegistryError,
    ReplicaEndpoint,
    RouterConfig,
    Saturated,
    SharedReplicaRegistry,
    UsageError,
)
from shared_registry.fastvideo import ReplicaRegistry, run_health_check_loop
from shared_registry.happenings import Happening, ReplicaHealthy
from tests.support.command import SECONDS

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"
CAPACITY = 6
Message = dict[str, Any]


async def healthy_probe(url: str, *, timeout: float) -> tuple[float, str | None]:
    """Find every replica well."""
    return 1.0, None


def build(url: str, namespace: str, **options: Any) -> SharedReplicaRegistry:
    config = RouterConfig(
        redis_url=url,
        namespace=namespace,
        router_id="web",
        replicas=[ReplicaEndpoint(A, capacity=CAPACITY)],
        heartbeat_seconds=0.2,
        refresh_seconds=0.2,
    )
    return SharedReplicaRegistry(config, http_get=healthy_probe, **options)


class Child:
    """A forked copy of this process that does some work and tells how that ended, in two steps."""

    def __init__(self, work: Callable[[Child], Awaitable[None]]) -> None:
        """Fork; the copy does the work and ends."""
        messages, to_parent = os.pipe()
        resumed_pipe, resume_pipe = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(to_parent)
            os.close(resumed_pipe)
            self._messages, self._resume_pipe = os.fdopen(messages), resume_pipe
            return
        signal.alarm(round(SECONDS * 2))  # it ends, whatever becomes of its parent
        self._to_parent, self._resumed_pipe = os.fdopen(to_parent, "w"), resumed_pipe
        code = 1
        try:
            asyncio.run(work(self))  # type: ignore[arg-type]
            code = 0
        except BaseException as error:  # noqa: BLE001  its parent has the test's eyes
            self.send({"failed": repr(error)})
        finally:
            os._exit(code)

    def send(self, what: Message) -> None:
        """Tell the parent."""
        self._to_parent.write(json.dumps(what) + "\n")
        self._to_parent.flush()

    async def wait(self) -> None:
        """Wait until the parent lets this go on."""
        await asyncio.to_thread(os.read, self._resumed_pipe, 1)

    def receive(self) -> Message:
        """Return what the child tells next."""
        line = self._messages.readline()
        return json.loads(line) if line else {"failed": "the child has ended"}

    def resume(self) -> None:
        os.write(self._resume_pipe, b"\n")

    def join(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


async def outcome(call: Callable[[], Any]) -> str:
    """Return how a call ended: `done`, or the error in words."""
    try:
        result = call()
        if asyncio.iscoroutine(result):
            await result
    except RegistryError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


async def until_healthy(registry: SharedReplicaRegistry) -> None:
    async with asyncio.timeout(SECONDS):
        while registry.select() is None:  # noqa: ASYNC110  as its users see it
            await asyncio.sleep(0.02)


def work_of(registry: SharedReplicaRegistry) -> Callable[[Child], Awaitable[None]]:
    """Return what a worker does with its copy: it holds half of the slots, and then asks for more."""

    async def work(child: Child) -> None:
        async with registry:
            await until_healthy(registry)
            held = [await registry.acquire() for _ in range(CAPACITY // 2)]
            child.send({"key": registry.router_key, "pid": os.getpid(), "luck": registry._selection_rng.random()})
            await child.wait()
            try:
                held.append(await registry.acquire())
            except Saturated:
                child.send({"more": False})
            else:
                child.send({"more": True})
            await child.wait()

    return work


def serve(url: str, registry: SharedReplicaRegistry, namespace: str) -> Message:
    """Fork two workers; return what they tell, and what Redis has while both hold their slots."""
    from redis import Redis as BlockingRedis

    children = [Child(work_of(registry)) for _ in range(2)]
    messages = [child.receive() for child in children]
    prefix = f"sr:{{{namespace}}}:"
    with BlockingRedis.from_url(url, decode_responses=True) as raw:
        pids = {key: raw.hget(f"{prefix}router:{key}", "pid") for key in raw.zrange(f"{prefix}routers", 0, -1)}
        in_flight = raw.hget(f"{prefix}replica:{A}", "in_flight")
    more = []
    for child in children:
        child.resume()
        more.append(child.receive())
    for child in children:
        child.resume()
    return {
        "messages": messages,
        "pids": pids,
        "in_flight": in_flight,
        "more": more,
        "codes": [child.join() for child in children],
        "key here": registry.router_key,
    }


def preload(url: str, namespace: str) -> Message:
    """Build, then fork."""
    registry = build(url, namespace)
    registry.select()
    return serve(url, registry, namespace)


def preload_seeded(url: str, namespace: str) -> Message:
    """Build one whose choices are to repeat, then fork."""
    return serve(url, build(url, namespace, seed=7), namespace)


def used_before(url: str, namespace: str) -> Message:
    """Build, register a replica in an event loop whose connections stay open, then fork."""
    registry = build(url, namespace)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(registry.register(ReplicaEndpoint(A, capacity=CAPACITY)))

    async def refused(child: Child) -> None:
        child.send({"select": await outcome(registry.select), "all": await outcome(registry.all)})

    child = Child(refused)
    before = child.receive()
    child.join()
    results = serve(url, registry, namespace)
    again = loop.run_until_complete(outcome(lambda: registry.drain(A)))
    return {**results, "refused": before, "parent goes on": again}


def started_before(url: str, namespace: str) -> Message:
    """Fork while the registry runs; the copy tries to use it, and then becomes a router of its own."""
    registry = build(url, namespace)

    async def work(child: Child) -> None:
        verbs: dict[str, Callable[[], Any]] = {
            "select": registry.select,
            "all": registry.all,
            "is_leader": lambda: registry.is_leader,
            "age_seconds": lambda: registry.age_seconds,
            "acquire": registry.acquire,
            "register": lambda: registry.register(B),
            "drain": lambda: registry.drain(A),
            "events": registry.events,
            "refresh": registry.refresh,
            "queue_depth": registry.queue_depth,
            "stop": registry.stop,
        }
        results: Message = {name: await outcome(verb) for name, verb in verbs.items()}
        results |= {"is_started": registry.is_started, "router_key": registry.router_key}
        child.send(results)
        await child.wait()
        async with registry:
            await until_healthy(registry)
            async with await registry.acquire() as lease:
                child.send({"key": registry.router_key, "lease": lease.replica.url})
                await child.wait()

    async def parent() -> Message:
        async with registry:
            await until_healthy(registry)
            key, held = registry.router_key, await registry.acquire()
            child = await asyncio.to_thread(Child, work)
            refused = await asyncio.to_thread(child.receive)
            mine = [await outcome(registry.acquire) for _ in range(3)]
            child.resume()
            joined = await asyncio.to_thread(child.receive)
            mine.append(await outcome(registry.acquire))
            child.resume()
            code = await asyncio.to_thread(child.join)
            # One that ended as a program does has closed what it took for its own.
            mine.append(await outcome(held.release))
            await registry.refresh(at_once=True)
            return {
                "refused": refused,
                "joined": joined,
                "code": code,
                "mine": mine,
                "keys": [key, registry.router_key],
                "age": registry.age_seconds,
                "leads": registry.is_leader,
            }

    return asyncio.run(parent())


def listening(url: str, namespace: str) -> Message:
    """Fork in the middle of a delivery to a listener; the copy starts, and hears of its own life."""
    registry = build(url, namespace)
    heard: list[str] = []
    children: list[Child] = []

    async def work(child: Child) -> None:
        before = len(heard)
        async with registry:
            await until_healthy(registry)
            child.send({"heard": heard[before:]})
            await child.wait()
            await registry.drain(A)
            async with asyncio.timeout(SECONDS):
                while "ReplicaDrained" not in heard:  # noqa: ASYNC110  as its users see it
                    await asyncio.sleep(0.02)
            child.send({"heard": heard[before:]})

    def listen(happening: Happening) -> None:
        heard.append(type(happening).__name__)
        if isinstance(happening, ReplicaHealthy) and not children:
            children.append(Child(work))

    registry.subscribe(listen)

    async def parent() -> Message:
        async with registry:
            await until_healthy(registry)
            [child] = children
            started = await asyncio.to_thread(child.receive)
            mine = list(heard)
            child.resume()
            drained = await asyncio.to_thread(child.receive)
            async with asyncio.timeout(SECONDS):
                while "ReplicaDrained" not in heard:  # noqa: ASYNC110  as its users see it
                    await asyncio.sleep(0.02)
            return {
                "started": started,
                "drained": drained,
                "code": await asyncio.to_thread(child.join),
                "mine": mine,
                "mine then": heard,
            }

    return asyncio.run(parent())


def with_own_client(url: str, namespace: str) -> Message:
    """Fork with a client of the program's own: once before it was used, once after."""
    results: Message = {}
    for when in ("unused", "used"):
        own = Redis.from_url(url, decode_responses=True)
        registry = build(url, namespace, redis=own)
        loop = asyncio.new_event_loop()
        if when == "used":
            loop.run_until_complete(own.ping())

        async def work(child: Child, registry: SharedReplicaRegistry = registry) -> None:
            try:
                async with registry:
                    child.send({"key": registry.router_key})
            except UsageError as error:
                child.send({"refused": str(error)})

        child = Child(work)
        results[when] = child.receive()
        child.join()
    return results


def fastvideo(url: str, namespace: str) -> Message:
    """Fork with the drop-in registry, whose health check loop starts it."""
    os.environ |= {"SHARED_REGISTRY_REDIS_URL": url, "SHARED_REGISTRY_NAMESPACE": namespace}
    registry = ReplicaRegistry([ReplicaEndpoint(A)])

    async def work(child: Child) -> None:
        stop = asyncio.Event()
        loop = asyncio.create_task(
            run_health_check_loop(registry=registry, config=registry.config, stop_event=stop, http_get=healthy_probe)
        )
        await until_healthy(registry)
        await registry.record_success(registry.all()[0], recovery_threshold=2, latency_ms=1.0)
        child.send({"key": registry.router_key})
        await child.wait()
        stop.set()
        await loop

    children = [Child(work) for _ in range(2)]
    messages = [child.receive() for child in children]
    for child in children:
        child.resume()
    return {"messages": messages, "codes": [child.join() for child in children]}


SCENARIOS: dict[str, Callable[[str, str], Message]] = {
    each.__name__: each
    for each in (preload, preload_seeded, used_before, started_before, listening, with_own_client, fastvideo)
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(SCENARIOS[sys.argv[1]](*sys.argv[2:])) + "\n")
