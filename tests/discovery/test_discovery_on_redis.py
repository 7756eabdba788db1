"""Whole registries that follow a file: appearing, changing, vanishing, and a change of the leader in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.troubles import is_well, trouble_of
from shared_registry.config.discovery_rules import check_discovery
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from tests.support.space import Space
from tests.support.until import until

FLEET = "file:fleet"
Make = Callable[..., SharedReplicaRegistry]


def url(number: int) -> str:
    return f"http://127.0.0.{number}:9"


class Fleet:
    """A file of replicas, replaced in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *numbers: int, **spec: Any) -> None:
        more = "".join(f", {name}: {value}" for name, value in spec.items())
        self.write_text("replicas:\n" + "".join(f"- {{url: {url(number)}{more}}}\n" for number in numbers))

    def write_text(self, text: str) -> None:
        other = self.path.with_suffix(".new")
        other.write_text(text)
        other.replace(self.path)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "replicas.yaml")


@pytest.fixture
def make(server: EmbeddedServer, namespace: str, fleet: Fleet) -> Make:
    def make(router_id: str = "router", **settings: Any) -> SharedReplicaRegistry:
        source = {"kind": "file", "name": "fleet", "path": str(fleet.path), "interval_seconds": 0.05}
        source |= settings.pop("source", {})
        return SharedReplicaRegistry(
            RouterConfig(
                redis_url=settings.pop("redis_url", server.url),
                namespace=namespace,
                router_id=router_id,
                discovery=[source],  # type: ignore[arg-type]
                lease_seconds=60.0,  # in another term sources begin anew
                renew_interval_seconds=0.2,
                **settings,
            )
        )

    return make


@contextlib.asynccontextmanager
async def running(registry: SharedReplicaRegistry) -> AsyncIterator[SharedReplicaRegistry]:
    async with registry:
        await until(lambda: registry.is_leader, "the leader")
        yield registry


def urls(registry: SharedReplicaRegistry) -> list[str]:
    return sorted(replica.url for replica in registry.all())


async def test_replicas_of_a_file_appear_change_and_vanish(make: Make, fleet: Fleet, space: Space) -> None:
    fleet.write(1, 2, 3, 4)
    async with running(make()) as registry:
        await until(lambda: len(registry.all()) == 4, "four replicas")
        assert {replica.record.source for replica in registry.all()} == {FLEET}
        fleet.write(1, 2, 3, 4, capacity=7)
        await until(lambda: {one.endpoint.capacity for one in registry.all()} == {7}, "the new capacity")
        fleet.write(1, 2, 3, capacity=7)
        await until(lambda: len(registry.all()) == 3, "three replicas")
        fleet.write(1, 2, 3, 5, capacity=7)
        await until(lambda: urls(registry) == [url(number) for number in (1, 2, 3, 5)], "the new one")
        before = (await space.reader.head()).revision
        await asyncio.sleep(0.5)
        kinds = {event.kind.value for event in await space.reader.events(after=before)}
        assert not {kind for kind in kinds if kind.startswith("replica_") and kind != "replica_unhealthy"}


async def test_a_wrong_file_changes_nothing(make: Make, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shared_registry.discovery")
    fleet.write(1, 2)
    async with running(make()) as registry:
        await until(lambda: len(registry.all()) == 2, "two replicas")
        for text in ("", "replicas: [", "- htp://x\n"):
            fleet.write_text(text)
            caplog.clear()
            await until(lambda: "the replicas stay as they are" in caplog.text, "the warning")
            await asyncio.sleep(0.3)
            assert caplog.text.count("the replicas stay as they are") == 1
            assert len(registry.all()) == 2
        fleet.path.unlink()
        await until(lambda: "No such file" in caplog.text, "the warning")
        fleet.write(1, 2, 3)
        await until(lambda: len(registry.all()) == 3, "three replicas")
        assert "answers again" in caplog.text


async def test_many_that_vanish_stay_until_confirmed(
    make: Make, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write(*range(1, 9))
    async with running(make(source={"confirm_seconds": 2.0})) as registry:
        await until(lambda: len(registry.all()) == 8, "eight replicas")
        fleet.write(1)
        await until(lambda: "7 of 8 replicas are missing in the answers of file:fleet" in caplog.text, "the warning")
        assert len(registry.all()) == 8
        await until(lambda: urls(registry) == [url(1)], "the removal")
        assert caplog.text.count("are missing in the answers") == 1


async def test_a_change_of_leader_goes_on_without_flapping(make: Make, fleet: Fleet, space: Space) -> None:
    fleet.write(1, 2, 3, 4)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(make("first")))
        await until(lambda: len(first.all()) == 4, "four replicas")
        second = await stack.enter_async_context(make("second"))
        incarnations = {one.key: one.record.incarnation for one in first.all()}
        fleet.write(1, 2, 3, 5)
        await first.stop()
        await until(lambda: second.is_leader, "the second leader")
        await until(lambda: urls(second) == [url(number) for number in (1, 2, 3, 5)], "what the file has")
        for one in second.all():
            assert incarnations.get(one.key, one.record.incarnation) == one.record.incarnation
        assert space.event_kinds().count("replica_registered") == 5
        assert space.event_kinds().count("replica_deregistered") == 1


async def test_only_the_leader_follows_sources(make: Make, fleet: Fleet) -> None:
    fleet.write(1)
    async with running(make("first")) as first, make("second") as second:
        await until(lambda: len(second.all()) == 1, "the replica")
        assert (first.is_leader, second.is_leader) == (True, False)


async def test_an_operator_wins_and_is_told_once(make: Make, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.write(1, 2, 3)
    async with running(make()) as registry:
        await until(lambda: len(registry.all()) == 3, "three replicas")
        await registry.drain(url(1), by="me", reason="deploy")
        await registry.deregister(url(2), by="me")
        await until(lambda: "an operator removed" in caplog.text, "the warning")
        await asyncio.sleep(0.5)
        assert urls(registry) == [url(1), url(3)]
        drained = registry.get(url(1))
        assert drained is not None
        assert drained.admin is AdminState.DRAINING
        assert caplog.text.count("an operator removed") == 1
        await registry.register(ReplicaEndpoint(url(2)), by="me")
        await until(lambda: "came by another way (explicit)" in caplog.text, "the conflict")
        fleet.write(1, 3)
        await asyncio.sleep(0.5)
        assert url(2) in urls(registry)
        assert caplog.text.count("came by another way") == 1


async def test_a_removal_after_a_conflict_is_logged(make: Make, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.write(1)
    async with running(make(replicas=[ReplicaEndpoint(url(1))])) as registry:
        await until(lambda: "came by another way (seed)" in caplog.text, "the conflict")
        await registry.deregister(url(1), by="me")
        await until(lambda: "an operator removed" in caplog.text, "the warning")
        await asyncio.sleep(0.3)
        assert caplog.text.count("an operator removed") == 1


async def test_a_replica_that_the_config_registered_stays_its_own(
    make: Make, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.write(1, 2, capacity=5)
    async with running(make(replicas=[ReplicaEndpoint(url(1), capacity=2)])) as registry:
        await until(lambda: len(registry.all()) == 2, "two replicas")
        await until(lambda: "came by another way (seed)" in caplog.text, "the conflict")
        seeded = registry.get(url(1))
        assert seeded is not None
        assert seeded.endpoint.capacity == 2
        fleet.write(2, capacity=5)
        await asyncio.sleep(0.5)
        assert url(1) in urls(registry)


async def test_a_loss_of_redis_loses_no_discovered_replica(
    make: Make, fleet: Fleet, own_server: Callable[..., EmbeddedServer]
) -> None:
    server = own_server()
    fleet.write(1, 2, 3, 4)
    async with running(make(redis_url=server.url)) as registry:
        await until(lambda: len(registry.all()) == 4, "four replicas")
        fleet.write(1, 2, 3)
        await until(lambda: len(registry.all()) == 3, "three replicas")
        server.kill()
        server.start()  # with nothing in it
        await until(lambda: registry.is_leader and len(registry.all()) == 3, "the leader is back")
        fleet.write(1, 2, 3, 4)  # its removal was no operator's
        await until(lambda: len(registry.all()) == 4, "the fourth comes back")
        assert {replica.record.source for replica in registry.all()} == {FLEET}


async def test_a_missing_package_stops_no_other_source(
    make: Make, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def is_installed(module: str) -> bool:
        return module != "dns"

    monkeypatch.setattr("shared_registry.extras._is_installed", is_installed)
    fleet.write(1)
    registry = make()
    pods = {"kind": "dns", "name": "pods", "host": "replicas.example", "port": 8000}
    config = dataclasses.replace(registry.config, discovery=(*registry.config.discovery, *check_discovery([pods])))
    async with running(SharedReplicaRegistry(config)) as registry:
        await until(lambda: len(registry.all()) == 1, "the replica of the file")
        await until(lambda: "pip install 'shared-registry[discovery]'" in caplog.text, "the remedy")
        assert registry.is_leader


async def test_what_is_held_back_is_shown_as_missing(make: Make, fleet: Fleet, space: Space) -> None:
    """By the next leader as well; and not once the source has it again."""

    def missing() -> set[str]:
        return {url(number) for number in range(1, 9) if "missing_since_ms" in space.fields(url(number))}

    fleet.write(*range(1, 9))
    async with make() as registry:
        await until(lambda: len(registry.all()) == 8, "all are registered")
        fleet.write(1, 2)
        held = {url(number) for number in range(3, 9)}
        await until(lambda: missing() == held, "six are missing")
        found = await space.reader.records([url(3), url(1)])
        assert "missing in file:fleet since" in trouble_of(found[url(3)], time.time())
        assert not is_well(found[url(3)])
        assert "missing" not in trouble_of(found[url(1)], time.time())
        assert len(registry.all()) == 8
        events = [event.id for event in await registry.events()]
        await asyncio.sleep(0.5)
        assert [event.id for event in await registry.events()] == events
    fleet.write(*range(1, 8))
    async with make("another") as registry:
        await until(lambda: missing() == set(), "they are there again, and the last one goes")
        await until(lambda: len(registry.all()) == 7, "one alone may go")
