"""The steps of `shared-registry demo`.

Each step acts on the cluster, waits until every router shows the expected state, and checks for a moment that the state
lasts. The state is really observed: the replica that a router selects is the one that gets a session opened through the
router's port. If a step is not observed, the demo ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from shared_registry.aio.stop_signals import until_stopped
from shared_registry.demo.cluster import PRIMARY, REPLICAS, Cluster, StepFailed
from shared_registry.demo.report import Audience, Outcome, StepResult
from shared_registry.demo.watch import RouterWatch, Session
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import RegistryError
from shared_registry.model import EventKind, ReplicaStatus

ADDED = "replica-5"
WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Observation:
    """The observation of a step.

    Attributes:
        seconds: The time from the action until the last router showed the expected state.
        detail: What the step did, as text for people.
        is_lasting: The condition that must hold for a moment after that.
    """

    seconds: float
    detail: str
    is_lasting: Callable[[], bool]


async def start(cluster: Cluster) -> Observation:
    """Start all processes. Sessions through every router reach the primary, and the routers have a leader."""
    begun = time.monotonic()
    await cluster.start()
    seconds = await cluster.until(
        lambda: (
            all_select(cluster, PRIMARY)
            and cluster.leader() is not None
            and all(map(knows_all_healthy, watches(cluster)))
        ),
        since=begun,
    )
    urls = ", ".join(f"{name} at {router.url}" for name, router in cluster.routers.items())
    return Observation(seconds, urls, lambda: all_select(cluster, PRIMARY))


async def kill_primary(cluster: Cluster) -> Observation:
    """Kill the primary. Sessions go to another replica at once, and the primary becomes unhealthy for all routers."""
    primary = cluster.replicas[PRIMARY]
    pid, failures = primary.pid, cluster.failures
    killed_at = time.monotonic()
    primary.kill()
    elsewhere = await cluster.until(lambda: all_select_another(cluster, PRIMARY), since=killed_at)
    seconds = await cluster.until(lambda: all_report(cluster, PRIMARY, ReplicaStatus.UNHEALTHY), since=killed_at)
    detail = (
        f"SIGKILL to process {pid}; sessions go elsewhere after {elsewhere:.2f} s, unhealthy for all"
        f" after {seconds:.2f} s; {cluster.failures - failures} sessions failed meanwhile"
    )
    return Observation(seconds, detail, lambda: all_select_another(cluster, PRIMARY))


async def restart_primary(cluster: Cluster) -> Observation:
    """Restart the primary. The leader's probes succeed again, and sessions through every router return to it."""
    primary = cluster.replicas[PRIMARY]
    started_at = time.monotonic()
    await primary.start()
    seconds = await cluster.until(lambda: all_select(cluster, PRIMARY), since=started_at)
    return Observation(
        seconds, f"process {primary.pid} serves {primary.url} again", lambda: all_select(cluster, PRIMARY)
    )


async def kill_leader(cluster: Cluster) -> Observation:
    """Kill the leader. Another router is elected with a higher epoch, and sessions through the other routers go on."""
    await cluster.until(lambda: cluster.leader() is not None)
    before = cluster.leader()
    if before is None:
        raise StepFailed("the routers do not agree on who leads")
    victim, old_epoch = before
    held = await cluster.hold()
    pid = cluster.routers[victim].pid
    killed_at = time.monotonic()
    await cluster.kill_router(victim)
    del held[victim]
    sessions, failures = cluster.sessions, cluster.failures

    def is_succeeded() -> bool:
        leader = cluster.leader()
        return leader is not None and leader[1] > old_epoch

    seconds = await cluster.until(is_succeeded, since=killed_at)
    if failed := cluster.failures - failures:
        raise StepFailed(f"{failed} sessions through the other routers failed")
    detail = (
        f"SIGKILL to {victim}, process {pid}; {cluster.sessions - sessions} sessions opened through the others"
        f" meanwhile, none failed; {len(held)} open ones go on"
    )
    return Observation(seconds, detail, lambda: all_select(cluster, PRIMARY) and all_receive(held))


async def drain_primary(cluster: Cluster) -> Observation:
    """Drain the primary with the command. New sessions go to other replicas, and its open sessions go on."""
    held = await cluster.hold()
    failures = cluster.failures
    command = await cluster.operate("drain", PRIMARY, "--reason", "shown in the demo")
    await cluster.until(lambda: all_select_another(cluster, PRIMARY))
    seconds = await cluster.seconds_since(EventKind.REPLICA_ADMIN)
    await cluster.finish(command)
    if failed := cluster.failures - failures:
        raise StepFailed(f"{failed} sessions failed")
    detail = f"{command.name}; {len(held)} open sessions on {PRIMARY} go on, no new one failed"
    return Observation(seconds, detail, lambda: all_select_another(cluster, PRIMARY) and all_receive(held))


async def add_replica(cluster: Cluster) -> Observation:
    """Start a primary and add it with the command. It is probed at once, and sessions through all routers reach it."""
    replica = await cluster.add_replica(ADDED)
    command = await cluster.operate("add", replica.url, "--name", ADDED, "--primary")
    await cluster.until(lambda: all_select(cluster, ADDED))
    seconds = await cluster.seconds_since(EventKind.REPLICA_REGISTERED)
    await cluster.finish(command)
    return Observation(seconds, command.name, lambda: all_select(cluster, ADDED))


async def verify(cluster: Cluster) -> Observation:
    """Check the registry with the command. All invariants hold in Redis, and the killed router is no longer listed."""
    begun = time.monotonic()
    command = await cluster.operate("check")
    await cluster.finish(command)
    seconds = time.monotonic() - begun
    overview = await cluster.observer.overview()
    while overview.live_routers != len(cluster.watches):
        await asyncio.sleep(0.1)
        overview = await cluster.observer.overview()
    facts = f"{len(overview.replicas)} replicas, {overview.live_routers} live routers"
    return Observation(seconds, f"{command.name}: {command.log}; {facts}", lambda: all_select(cluster, ADDED))


STEPS: tuple[tuple[str, float, Callable[[Cluster], Awaitable[Observation]]], ...] = (
    ("All routers send sessions to the primary", 30.0, start),
    ("The primary's process is killed: all use another replica", 15.0, kill_primary),
    ("It is restarted: all return to it", 15.0, restart_primary),
    ("The leading router is killed: another leads, sessions go on", 15.0, kill_leader),
    ("The primary is drained: no new sessions, open ones go on", 10.0, drain_primary),
    ("A fifth replica is added, a primary: all use it", 15.0, add_replica),
    ("The check finds nothing wrong", 10.0, verify),
)
"""The title, the deadline in seconds and the action of each step. The deadlines allow for a busy machine."""


def run_demo(namespace: str, audience: Audience, *, keep: bool) -> bool | None:
    """Run all steps. Return whether every step was observed, or `None` if a signal ended the demo before its end.

    Args:
        namespace: The registry's name in the demo's Redis.
        audience: Shows the progress.
        keep: Keep the cluster running after the last step, until a signal.

    Raises:
        ConfigError: There is no server program to run, or the namespace is not usable.
        StoreUnavailable: The server did not start.
    """
    with EmbeddedServer() as server:
        return asyncio.run(_play(server, namespace, audience, keep=keep))


async def _play(server: EmbeddedServer, namespace: str, audience: Audience, *, keep: bool) -> bool | None:
    outcomes: list[Outcome] = []

    async def story() -> None:
        async with Cluster(server.url, namespace, server.data_dir) as cluster:
            outcomes.append(await _run_steps(cluster, audience))
            if keep:
                urls = {name: cluster.routers[name].url for name in cluster.watches}
                audience.keep(urls, server.url, server.port, namespace)
                await asyncio.Event().wait()

    await until_stopped(story())
    return outcomes[0].observed if outcomes else None


async def _run_steps(cluster: Cluster, audience: Audience) -> Outcome:
    begun = time.monotonic()
    redis, namespace = cluster.config.redis_url, cluster.config.namespace
    audience.begin(redis, namespace)
    results: list[StepResult] = []
    for number, (title, deadline_seconds, act) in enumerate(STEPS, 1):
        audience.act(number, title)
        sessions, failures = cluster.sessions, cluster.failures
        observation, trouble = await _observe(cluster, act, deadline_seconds)
        leader = cluster.leader()
        result = StepResult(
            number=number,
            title=title,
            observed=not trouble,
            seconds=round(observation.seconds, 3) if observation and not trouble else None,
            deadline_seconds=deadline_seconds,
            selected=cluster.selected(),
            leader=leader[0] if leader else None,
            epoch=leader[1] if leader else None,
            sessions=cluster.sessions - sessions,
            failed_sessions=cluster.failures - failures,
            detail=trouble or (observation.detail if observation else ""),
        )
        results.append(result)
        audience.end_step(result)
        if trouble:
            break
    is_observed = len(results) == len(STEPS) and all(result.observed for result in results)
    outcome = Outcome(is_observed, round(time.monotonic() - begun, 3), redis, namespace, results)
    audience.end(outcome)
    return outcome


async def _observe(
    cluster: Cluster, act: Callable[[Cluster], Awaitable[Observation]], deadline_seconds: float
) -> tuple[Observation | None, str]:
    """Run a step. Return its observation, and the reason if the step failed; otherwise an empty text."""
    try:
        async with asyncio.timeout(deadline_seconds):
            observation = await act(cluster)
        await cluster.lasts(observation.is_lasting, WATCH_SECONDS)
    except TimeoutError:
        return None, f"not observed within {deadline_seconds:g} s"
    except (StepFailed, RegistryError, OSError) as error:
        return None, str(error)
    return observation, ""


def watches(cluster: Cluster) -> list[RouterWatch]:
    """Return the watches of the live routers."""
    return list(cluster.watches.values())


def all_select(cluster: Cluster, name: str) -> bool:
    """Whether the latest session through every live router is on that replica."""
    return set(cluster.selected().values()) == {name}


def all_select_another(cluster: Cluster, name: str) -> bool:
    """Whether the latest session through every live router is on a replica, and not on that one."""
    return not {name, None} & set(cluster.selected().values())


def all_report(cluster: Cluster, name: str, status: ReplicaStatus) -> bool:
    """Whether the replica has that status for every live router."""
    return {watch.replica_status(name) for watch in watches(cluster)} == {status.value}


def knows_all_healthy(watch: RouterWatch) -> bool:
    """Whether the router shows exactly the first replicas, and all of them as healthy."""
    shown = watch.status.get("replicas", [])
    return [one["status"] for one in shown] == [ReplicaStatus.HEALTHY.value] * REPLICAS


def all_receive(held: Mapping[str, Session]) -> bool:
    """Whether frames still arrive in all of these sessions, and none was missing."""
    return all(session.is_receiving for session in held.values())
