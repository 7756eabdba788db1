"""Builds the parts of one router's registry. Nothing here runs or connects."""

from __future__ import annotations

import os
import random
import socket
import time
from dataclasses import dataclass, replace

from shared_registry._version import __version__
from shared_registry.admin.inspector import Inspector
from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.happenings import Emitter
from shared_registry.leader.health_checks import HealthChecks
from shared_registry.leases import Placement
from shared_registry.mirror.ejections import Ejections
from shared_registry.mirror.load_updates import LoadUpdates
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.news import News
from shared_registry.mirror.rest import CONFIRMED_PERIODS, Rest
from shared_registry.mirror.restoration import restore_view
from shared_registry.mirror.slow_start import SlowStart
from shared_registry.model import RouterInfo
from shared_registry.probing.prober_list import ProberList
from shared_registry.probing.trouble_log import QUIET_SECONDS, TroubleLog
from shared_registry.registry.membership import HeartbeatHooks, Membership
from shared_registry.registry.outcomes import Outcomes
from shared_registry.registry.seeding import Seeding
from shared_registry.selection import Selection
from shared_registry.selection.cooldown import Cooldown
from shared_registry.selection.view import View
from shared_registry.store import client
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.replies import Heartbeat
from shared_registry.store.writability import Writability


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one router's registry; each class documents itself."""

    keys: Keys
    clients: Clients
    store: Store
    reader: Inspector
    view: View
    mirror: Mirror
    news: News
    placement: Placement
    membership: Membership
    health_checks: HealthChecks
    cooldown: Cooldown
    load_updates: LoadUpdates
    slow_start: SlowStart
    ejections: Ejections
    outcomes: Outcomes
    writability: Writability
    seeding: Seeding


def build_parts(
    settings: RouterConfig,
    *,
    router_key: str,
    url: str,
    clients: Clients,
    view: View,
    emitter: Emitter,
    clock: Clock,
    rng: random.Random,
) -> Parts:
    """Build the parts, and connect them to each other.

    Args:
        settings: The settings of this router.
        router_key: This router's key, new at each start.
        url: The url at which the router serves, for operators.
        clients: See `clients_of`.
        view: See `configured_view`. It outlives a stop, with the handles that callers have.
        emitter: Delivers what happens. It outlives a stop, with its listeners.
        clock: Used for waits, ages and deadlines.
        rng: Used for jitter.
    """
    store, reader, mirror, writability = _shared_state(
        settings, router_key, clients, view, emitter=emitter, clock=clock, rng=rng
    )

    async def heartbeat() -> None:
        await membership.heartbeat()

    def measure(info: RouterInfo) -> RouterInfo:
        counts = health_checks.counts
        return replace(
            info,
            trouble=trouble_log.reason,
            view_age_seconds=mirror.age_seconds,
            probe_age_seconds=counts.age_seconds,
            probe_lag_seconds=counts.take_worst_lag(),
        )

    def hear(heartbeat: Heartbeat | None) -> None:
        mirror.hear(heartbeat)
        if heartbeat is not None and heartbeat.leader_lease_seconds is not None:
            health_checks.hear_of_lease(heartbeat.leader_lease_seconds)

    async def testify(key: str, *, probed_at: float) -> None:
        await outcomes.testify(key, probed_at=probed_at)

    probers = ProberList(router=router_key)
    placement = Placement(
        store,
        reader,
        mirror,
        settings,
        probers=probers,
        join=heartbeat,
        clock=clock,
        rng=rng,
    )
    clients.failover.on_moved.append(placement.reconciler.note_move)
    trouble_log = TroubleLog(quiet_seconds=max(QUIET_SECONDS, 2 * settings.health_check_interval_seconds), clock=clock)
    membership = Membership(
        store,
        _router_info(settings, router_key, url),
        settings,
        settler=placement.settler,
        probers=probers,
        hooks=HeartbeatHooks(measure, hear),
        clock=clock,
        rng=rng,
    )
    cooldown = Cooldown(view, seconds=settings.local_cooldown_seconds, clock=clock)
    health_checks = HealthChecks(
        store,
        mirror,
        cooldown,
        probers=probers,
        trouble_log=trouble_log,
        testify=testify,
        clock=clock,
        rng=rng,
    )
    outcomes = Outcomes(
        store,
        view,
        cooldown,
        trouble_log,
        ejection=settings.ejection_limits,
        on_failed_session=health_checks.distrust,
        probers=probers,
        clock=clock,
    )
    return Parts(
        keys=Keys(settings.namespace),
        clients=clients,
        store=store,
        reader=reader,
        view=view,
        mirror=mirror,
        news=News(emitter, mirror),
        placement=placement,
        membership=membership,
        health_checks=health_checks,
        cooldown=cooldown,
        slow_start=SlowStart(reader, mirror, clock=clock),
        ejections=Ejections(
            reader,
            mirror,
            base_seconds=settings.base_ejection_seconds,
            grace_seconds=2 * settings.heartbeat_seconds,
            clock=clock,
        ),
        load_updates=LoadUpdates(reader, view, refresh_seconds=settings.refresh_seconds, clock=clock),
        outcomes=outcomes,
        writability=writability,
        seeding=Seeding(store, reader, Keys(settings.namespace), clock=clock, rng=rng),
    )


def _shared_state(
    settings: RouterConfig,
    router_key: str,
    clients: Clients,
    view: View,
    *,
    emitter: Emitter,
    clock: Clock,
    rng: random.Random,
) -> tuple[Store, Inspector, Mirror, Writability]:
    """Build the store, the reader, and a mirror that writes its view to Redis after history was lost."""
    keys, timeout_seconds = Keys(settings.namespace), settings.redis_timeout_seconds
    writability = Writability(read_age=lambda: mirror.age_seconds, clock=clock)
    store = Store(
        clients,
        keys,
        router=router_key,
        timeout_seconds=timeout_seconds,
        writability=writability,
        begin_write=lambda: mirror.begin_write(),  # noqa: PLW0108  the mirror is made below
    )
    reader = Inspector(clients, keys, timeout_seconds=timeout_seconds)

    async def contribute_view() -> str | None:
        if mirror.history_id is None:
            return None
        return await restore_view(store, reader, view, history_id=mirror.history_id, revision=mirror.revision)

    mirror = Mirror(
        reader,
        view,
        rest=Rest(refresh_seconds=settings.refresh_seconds, heartbeat_seconds=settings.heartbeat_seconds, clock=clock),
        max_staleness_seconds=settings.max_staleness_seconds,
        clock=clock,
        rng=rng,
        on_lost_history=contribute_view,
        emitter=emitter,
    )
    return store, reader, mirror, writability


def configured_view(settings: RouterConfig, selection_rng: random.Random) -> View:
    """Build a view that shows the configured replicas.

    Args:
        settings: The settings of this router.
        selection_rng: Used for the random choices of the policies.
    """
    selection = Selection(settings.policy, rng=selection_rng, hash_max_load=settings.hash_max_load)
    view = View(
        selection,
        panic_percent=settings.effective_panic_percent,
        spreads_in_panic=settings.panic_percent is not None,
    )
    view.show_configured(settings.replicas)
    return view


def reset_view(view: View) -> None:
    """Reset the changes that the parts of an earlier start made to a view, because those parts no longer run."""
    view.withhold(False)  # noqa: FBT003  the state to set
    view.cool(())
    view.ramp({}, ())
    view.end_ejections({})


def clients_of(settings: RouterConfig, redis: Client | None) -> Clients:
    """Return a router's Redis clients, not connected: the caller's own, or clients built from the settings.

    Raises:
        ConfigError: The client cannot be used.
    """
    if redis is not None:
        return client.adopt(redis)
    return client.connect(
        settings.redis_url,
        timeout_seconds=settings.redis_timeout_seconds,
        block_seconds=CONFIRMED_PERIODS * settings.refresh_seconds,
        key=Keys(settings.namespace).meta,
        name=settings.router_id,
    )


def _router_info(settings: RouterConfig, router_key: str, url: str) -> RouterInfo:
    return RouterInfo(
        key=router_key,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=__version__,
        started_at=time.time(),
        url=url,
        config_fingerprint=settings.fingerprint(),
        cluster=settings.cluster or "",
    )
