"""The story of `shared-registry demo`: what befalls a cluster of routers, step by step.

A step acts, waits until every router is seen to react, and watches for a moment whether it lasts. Nothing is taken for
granted: what a router selects is what its own process reports. A step that is not observed ends the story.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared_registry.demo.cluster import Cluster, StepFailed
from shared_registry.demo.report import Audience, Outcome, StepResult
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import RegistryError
from shared_registry.stop_signals import until_stopped

PRIMARY, ADDED = "replica-1", "replica-4"
WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step has shown.

    Attributes:
        seconds: From the act to when the last router showed it.
        is_lasting: What must go on for a moment.
    """

    seconds: float
    detail: str
    is_lasting: Callable[[], bool]


async def start(cluster: Cluster) -> Seen:
    """All processes start; all routers select the primary, and have a leader."""
    begun = time.monotonic()
    await cluster.start()
    seconds = await cluster.until(lambda: all_select(cluster, PRIMARY) and cluster.leader() is not None, since=begun)
    return Seen(seconds, f"{len(cluster.live_routers)} router processes started", lambda: all_select(cluster, PRIMARY))


async def kill_primary(cluster: Cluster) -> Seen:
    """The leader's probes fail, and all routers select another replica."""
    primary = cluster.replicas[PRIMARY]
    detail = f"SIGKILL to process {primary.pid}"
    killed_at = time.monotonic()
    primary.kill()
    seconds = await cluster.until(lambda: all_select_another(cluster, PRIMARY), since=killed_at)
    return Seen(seconds, detail, lambda: all_select_another(cluster, PRIMARY))


async def restart_primary(cluster: Cluster) -> Seen:
    """The leader's probes succeed again, and all routers return to the primary."""
    primary = cluster.replicas[PRIMARY]
    started_at = time.monotonic()
    await primary.start()
    seconds = await cluster.until(lambda: all_select(cluster, PRIMARY), since=started_at)
    return Seen(seconds, f"process {primary.pid} serves {primary.url} again", lambda: all_select(cluster, PRIMARY))


async def kill_leader(cluster: Cluster) -> Seen:
    """Its lease runs out, another router is elected under a higher epoch, and selection never noticed."""
    await cluster.until(lambda: cluster.leader() is not None)
    before = cluster.leader()
    if before is None:
        raise StepFailed("the routers do not agree on who leads")
    victim, old_epoch = before
    detail = f"SIGKILL to {victim.name}, process {victim.pid}"
    killed_at = time.monotonic()
    victim.kill()
    reports_before = {router.name: router.latest for router in cluster.live_routers}

    def is_succeeded() -> bool:
        leader = cluster.leader()
        return leader is not None and leader[1] > old_epoch

    seconds = await cluster.until(is_succeeded, since=killed_at)
    selections = 0
    for router in cluster.live_routers:
        first, last = reports_before[router.name], router.latest
        if first is None or last is None:
            raise StepFailed(f"{router.name} has not reported")
        meanwhile = [report for report in router.reports if report.selections > first.selections]
        if last.misses > first.misses or any(report.selected != first.selected for report in meanwhile):
            raise StepFailed(f"{router.name} did not select {PRIMARY} all the time: {meanwhile}")
        selections += last.selections - first.selections
    detail += f"; {selections} selections meanwhile, none in vain and none of another replica"
    return Seen(seconds, detail, lambda: all_select(cluster, PRIMARY))


async def drain_primary(cluster: Cluster) -> Seen:
    """An operator drains the primary: it is healthy, but nobody selects it."""
    drained_at = time.monotonic()
    await cluster.drain(PRIMARY)
    seconds = await cluster.until(lambda: all_select_another(cluster, PRIMARY), since=drained_at)
    return Seen(seconds, f"{PRIMARY} is healthy, but draining", lambda: all_select_another(cluster, PRIMARY))


async def add_replica(cluster: Cluster) -> Seen:
    """An operator registers a new primary: it is probed at once, and all routers select it."""
    added_at = await cluster.add_primary(ADDED)
    seconds = await cluster.until(lambda: all_select(cluster, ADDED), since=added_at)
    return Seen(seconds, f"{ADDED} at {cluster.replicas[ADDED].url}", lambda: all_select(cluster, ADDED))


async def check(cluster: Cluster) -> Seen:
    """What Redis holds is consistent, and the killed router is forgotten."""
    begun = time.monotonic()
    violations = await cluster.observer.check()
    if violations:
        raise StepFailed("; ".join(f"{one.key}: {one.message}" for one in violations))
    seconds = time.monotonic() - begun
    overview = await cluster.observer.overview()
    while overview.live_routers != len(cluster.live_routers):
        await asyncio.sleep(0.1)
        overview = await cluster.observer.overview()
    detail = f"no invariant violated; {len(overview.replicas)} replicas, {overview.live_routers} live routers"
    return Seen(seconds, detail, lambda: all_select(cluster, ADDED))


STEPS: tuple[tuple[str, float, Callable[[Cluster], Awaitable[Seen]]], ...] = (
    ("All routers select the primary", 30.0, start),
    ("The primary's process is killed: all select another replica", 15.0, kill_primary),
    ("It is restarted: all return to it", 15.0, restart_primary),
    ("The leading router is killed: another leads, selection goes on", 15.0, kill_leader),
    ("The primary is drained: nobody selects it", 10.0, drain_primary),
    ("A new primary is registered while all run: all select it", 15.0, add_replica),
    ("check() finds nothing wrong", 10.0, check),
)
"""Title, deadline in seconds, act. The deadlines are generous: they tell never from late on a busy machine."""


def run_demo(namespace: str, audience: Audience, *, keep: bool) -> bool | None:
    """Play the story; return whether every step was observed, `None` where a signal ended it before.

    Args:
        namespace: Where in its Redis the registry lives.
        audience: To whom it is shown.
        keep: Stay up in the end, until a signal.

    Raises:
        ConfigError: There is no server program to run, or the namespace is not usable.
        StoreUnavailable: The server did not start.
    """
    with EmbeddedServer() as server:
        return asyncio.run(_play(server, namespace, audience, keep=keep))


async def _play(server: EmbeddedServer, namespace: str, audience: Audience, *, keep: bool) -> bool | None:
    outcomes: list[Outcome] = []

    async def story() -> None:
        async with Cluster(server.url, namespace) as cluster:
            outcomes.append(await _tell(cluster, audience))
            if keep:
                audience.keep(server.url, server.port, namespace)
                await asyncio.Event().wait()

    await until_stopped(story())
    return outcomes[0].observed if outcomes else None


async def _tell(cluster: Cluster, audience: Audience) -> Outcome:
    begun = time.monotonic()
    redis, namespace = cluster.config.redis_url, cluster.config.namespace
    audience.begin(redis, namespace)
    results: list[StepResult] = []
    for number, (title, deadline_seconds, act) in enumerate(STEPS, 1):
        audience.act(number, title)
        seen, trouble = await _observe(cluster, act, deadline_seconds)
        leader = cluster.leader()
        result = StepResult(
            number=number,
            title=title,
            observed=not trouble,
            seconds=round(seen.seconds, 3) if seen and not trouble else None,
            deadline_seconds=deadline_seconds,
            selected=cluster.selected(),
            leader=leader[0].name if leader else None,
            epoch=leader[1] if leader else None,
            detail=trouble or (seen.detail if seen else ""),
        )
        results.append(result)
        audience.see(result)
        if trouble:
            break
    is_observed = len(results) == len(STEPS) and all(result.observed for result in results)
    outcome = Outcome(is_observed, round(time.monotonic() - begun, 3), redis, namespace, results)
    audience.end(outcome)
    return outcome


async def _observe(
    cluster: Cluster, act: Callable[[Cluster], Awaitable[Seen]], deadline_seconds: float
) -> tuple[Seen | None, str]:
    """Return what was seen, and why that does not count, if it does not."""
    try:
        async with asyncio.timeout(deadline_seconds):
            seen = await act(cluster)
        await cluster.lasts(seen.is_lasting, WATCH_SECONDS)
    except TimeoutError:
        return None, f"not observed within {deadline_seconds:g} s"
    except (StepFailed, RegistryError, OSError) as error:
        return None, str(error)
    return seen, ""


def all_select(cluster: Cluster, name: str) -> bool:
    """Whether every live router selects that replica."""
    return set(cluster.selected().values()) == {name}


def all_select_another(cluster: Cluster, name: str) -> bool:
    """Whether every live router selects a replica, and none that one."""
    return not {name, None} & set(cluster.selected().values())
