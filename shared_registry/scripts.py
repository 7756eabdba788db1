"""The Lua commands as typed calls. Each returns the reply as it came: a status word, and values.

Seconds become milliseconds here. A command goes out by its digest, and as text where the server does not know it
(a restart, a failover, SCRIPT FLUSH).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from redis.exceptions import NoScriptError

from shared_registry.client import Client
from shared_registry.keys import Keys
from shared_registry.lua_files import assemble, command_names
from shared_registry.model import ProbeResult, ReplicaEndpoint, RouterInfo, Source, Thresholds
from shared_registry.wire import milliseconds


class Reply(NamedTuple):
    """What a command answered."""

    status: str
    values: list[str]


class _Command(NamedTuple):
    text: str
    digest: str


def _load() -> dict[str, _Command]:
    texts = {name: assemble(name) for name in command_names()}
    return {
        name: _Command(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
        for name, text in texts.items()
    }


class Scripts:
    """One method per file in `lua/`, bound to a client and a namespace.

    Errors are those of redis-py; the caller bounds the time. A cancelled call may or may not have been executed.
    """

    def __init__(self, client: Client, keys: Keys, *, commands: dict[str, _Command] | None = None) -> None:
        self._client = client
        self._keys = keys
        self._commands = _load() if commands is None else commands

    def over(self, client: Client) -> Scripts:
        """Return the same over another client."""
        return Scripts(client, self._keys, commands=self._commands)

    async def _run(self, name: str, keys: Sequence[str], args: Sequence[str]) -> Reply:
        command = self._commands[name]
        try:
            reply = await self._client.evalsha(command.digest, len(keys), *keys, *args)
        except NoScriptError:
            reply = await self._client.eval(command.text, len(keys), *keys, *args)
        return Reply(reply[0], reply[1:])

    async def register_replica(
        self, *, mode: Source, request: str, birth: str, router: str, by: str, key: str, endpoint: ReplicaEndpoint
    ) -> Reply:
        """`created` or `updated` and the event; `unchanged`, `tombstone` or `overridden`."""
        return await self._run(
            "register_replica",
            self._lease_keys,
            [
                mode.value,
                request,
                birth,
                router,
                by,
                key,
                endpoint.url,
                endpoint.name or "",
                "1" if endpoint.primary else "0",
                repr(float(endpoint.weight)),
                str(endpoint.capacity),
                "" if endpoint.order is None else str(endpoint.order),
            ],
        )

    async def deregister_replica(
        self, *, key: str, incarnation: str, router: str, by: str, reason: str, when_drained: bool
    ) -> Reply:
        """`removed` or `draining` and the event, if it was not draining for that already; or `not_found`."""
        keys = self._keys
        return await self._run(
            "deregister_replica",
            [keys.meta, keys.replicas, keys.removed, keys.replica(key), *self._ready_keys, keys.events],
            [key, incarnation, router, by, reason, "1" if when_drained else "0"],
        )

    async def set_admin(self, *, key: str, state: str, router: str, by: str, reason: str) -> Reply:
        """`set` and the event, `unchanged` or `not_found`."""
        keys = self._keys
        return await self._run(
            "set_admin",
            [keys.meta, keys.routers, keys.events, *self._line_keys],
            [key, state, router, by, reason],
        )

    async def campaign(self, *, router: str, token: str, lease_seconds: float, seen_epoch: int, birth: str) -> Reply:
        """`elected` and the epoch; or `held`, by whom, epoch, elected_at_ms, remaining ms."""
        keys = self._keys
        return await self._run(
            "campaign",
            [keys.meta, keys.leader, keys.events],
            [router, token, milliseconds(lease_seconds), str(seen_epoch), birth],
        )

    async def renew(self, *, token: str, lease_seconds: float) -> Reply:
        """`renewed` or `lost`."""
        return await self._run("renew", [self._keys.leader], [token, milliseconds(lease_seconds)])

    async def resign(self, *, token: str, reason: str = "") -> Reply:
        """`resigned` or `lost`."""
        return await self._run("resign", [self._keys.meta, self._keys.leader, self._keys.events], [token, reason])

    async def step_down(self, *, epoch: int, sit_out_seconds: float, by: str, reason: str) -> Reply:
        """`deposed` and whose lease it was, or `over`."""
        return await self._run(
            "step_down",
            [self._keys.meta, self._keys.leader, self._keys.events],
            [str(epoch), milliseconds(sit_out_seconds), by, reason],
        )

    async def advance_ramps(self, *, token: str, epoch: int, slow_start_seconds: float, urls: Sequence[str]) -> Reply:
        """`advanced` and which of these ramp on, or `fenced`."""
        keys = self._keys
        return await self._run(
            "advance_ramps",
            [keys.meta, keys.leader, *self._ready_keys, keys.replica_prefix],
            [token, str(epoch), milliseconds(slow_start_seconds), *urls],
        )

    async def declare_panic(self, *, token: str, epoch: int, why: str) -> Reply:
        """`declared`, `unchanged` or `fenced`."""
        keys = self._keys
        return await self._run("declare_panic", [keys.meta, keys.leader, keys.events], [token, str(epoch), why])

    async def report_probes(
        self, *, token: str, epoch: int, batch: int, thresholds: Thresholds, results: Sequence[ProbeResult]
    ) -> Reply:
        """`applied`, how many were dropped, and the events; `duplicate` or `fenced`."""
        keys = self._keys
        args = [token, str(epoch), str(batch), str(thresholds.failure), str(thresholds.recovery)]
        for result in results:
            ok = "0" if result.error is not None else "1"
            args += [result.key, result.incarnation, ok, f"{result.latency_ms:.3f}", result.error or ""]
        return await self._run(
            "report_probes",
            [keys.meta, keys.leader, keys.routers, keys.events, *self._line_keys],
            args,
        )

    async def record_outcome(
        self, *, result: ProbeResult, thresholds: Thresholds, router: str, by: str, is_passive: bool
    ) -> Reply:
        """`applied` and the event, if any; or `not_found`. Not safe to run twice."""
        keys = self._keys
        return await self._run(
            "record_outcome",
            [keys.meta, keys.routers, keys.events, *self._line_keys],
            [
                result.key,
                result.incarnation,
                "0" if result.error is not None else "1",
                f"{result.latency_ms:.3f}",
                result.error or "",
                str(thresholds.failure),
                str(thresholds.recovery),
                router,
                by,
                "1" if is_passive else "0",
            ],
        )

    async def heartbeat(self, *, info: RouterInfo, expiry_seconds: float, birth: str) -> Reply:
        """`alive`, birth, revision, whether the router joined, how many leases it has, and the routers to reap."""
        keys = self._keys
        return await self._run(
            "heartbeat",
            [keys.meta, keys.routers, keys.events, keys.router_prefix, *self._line_keys],
            [
                info.key,
                milliseconds(expiry_seconds),
                birth,
                info.host,
                str(info.pid),
                info.version,
                milliseconds(info.started_at),
                info.url,
                info.config_fingerprint,
            ],
        )

    async def reap_router(self, *, key: str, by: str, affinity_seconds: float) -> Reply:
        """`reaped`; `partial` and how many leases are left; `alive` or `not_found`."""
        return await self._run("reap_router", self._parting_keys(key), [key, by, milliseconds(affinity_seconds)])

    async def leave_cluster(self, *, key: str, affinity_seconds: float) -> Reply:
        """`left`; `partial` and how many leases are left; or `not_found`."""
        return await self._run("leave_cluster", self._parting_keys(key), [key, milliseconds(affinity_seconds)])

    def _parting_keys(self, router: str) -> list[str]:
        keys = self._keys
        return [
            keys.meta,
            keys.replicas,
            keys.removed,
            keys.routers,
            keys.router(router),
            keys.events,
            *self._line_keys,
            keys.place_prefix,
        ]

    async def acquire_lease(
        self,
        *,
        router: str,
        lease_id: str,
        max_queue: int,
        sequence: str,
        avoided: Collection[str],
        excluded: Collection[str],
    ) -> Reply:
        """`granted` or `held`, the replica's url and revision; `waiting`, sequence, position and depth; or a denial.

        Denials are `excluded`, `saturated` and `no_healthy`, each with the depth of the line, and `not_registered`.
        """
        keys = self._keys
        return await self._run(
            "acquire_lease",
            [keys.meta, keys.routers, *self._line_keys, keys.place_prefix],
            [router, lease_id, str(max_queue), sequence, str(len(avoided)), *avoided, *excluded],
        )

    async def release_lease(self, *, router: str, lease_id: str, affinity_seconds: float) -> Reply:
        """`released` and the event, if a replica was removed with it; `abandoned`, of a waiting; or `not_found`."""
        return await self._run("release_lease", self._lease_keys, [router, lease_id, milliseconds(affinity_seconds)])

    async def restore_leases(self, *, router: str, leases: Mapping[str, str]) -> Reply:
        """`restored`, how many, how many urls are over capacity, these, and urls not there; or `not_registered`."""
        args = [router, *(text for lease in leases.items() for text in lease)]
        return await self._run("restore_leases", self._lease_keys, args)

    async def restore_view(
        self, *, birth: str, router: str, view_birth: str, view_revision: str, is_complete: bool, entries: Sequence[str]
    ) -> Reply:
        """`restored` and the events, or `superseded`. Entries come from `wire.restored_entry`."""
        return await self._run(
            "restore_view",
            self._lease_keys,
            [birth, router, view_birth, view_revision, "1" if is_complete else "0", *entries],
        )

    async def inspect_replicas(self, urls: Sequence[str]) -> Reply:
        """`inspected`, and eleven values for each url."""
        keys = self._keys
        return await self._run("inspect_replicas", [keys.replicas, *self._ready_keys, keys.replica_prefix], list(urls))

    async def inspect_leases(self, *, routers: Collection[str], urls: Collection[str]) -> Reply:
        """`inspected`, how many routers are none, these, and url, in_flight and leases where these differ."""
        keys = self._keys
        return await self._run(
            "inspect_leases",
            [keys.routers, keys.replica_prefix, keys.leases_prefix],
            [str(len(routers)), *routers, *urls],
        )

    async def repair_namespace(
        self, *, router: str, by: str, first_event: str, routers: Collection[str], urls: Collection[str]
    ) -> Reply:
        """`repaired`, and how many things were wrong."""
        return await self._run(
            "repair_namespace",
            self._lease_keys,
            [router, by, first_event, str(len(routers)), *routers, *urls],
        )

    async def inspect_queue(self, *, routers: Collection[str]) -> Reply:
        """`inspected`, how many wait of live routers, how many replicas have room, and the routers that are none."""
        keys = self._keys
        return await self._run(
            "inspect_queue", [keys.routers, keys.queue, keys.ready_primary, keys.ready_secondary], [*routers]
        )

    async def inspect_waiters(self, *, router: str, lease_ids: Collection[str]) -> Reply:
        """`inspected`, how many wait, and the position of each of these, empty for who does not wait."""
        return await self._run("inspect_waiters", [self._keys.queue], [router, *lease_ids])

    @functools.cached_property
    def _lease_keys(self) -> list[str]:
        """What any command that ends leases, or makes them, may touch."""
        keys = self._keys
        return [keys.meta, keys.replicas, keys.removed, keys.routers, keys.events, *self._line_keys]

    @functools.cached_property
    def _line_keys(self) -> tuple[str, ...]:
        """What handing a slot to a waiter touches."""
        keys = self._keys
        return (
            keys.queue,
            *self._ready_keys,
            keys.replica_prefix,
            keys.leases_prefix,
            keys.affinity_prefix,
            keys.inbox_prefix,
        )

    @functools.cached_property
    def _ready_keys(self) -> tuple[str, str, str]:
        return self._keys.ready_primary, self._keys.ready_secondary, self._keys.full
