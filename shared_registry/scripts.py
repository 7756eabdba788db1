"""The Lua commands as typed calls. Each returns the reply as it came: a status word, and values.

Seconds become milliseconds here. A command goes out by its digest, and as text where the server does not know it
(a restart, a failover, SCRIPT FLUSH).
"""

from __future__ import annotations

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

    async def _run(self, name: str, args: Sequence[str]) -> Reply:
        command = self._commands[name]
        try:
            reply = await self._client.evalsha(command.digest, 1, self._keys.meta, *args)
        except NoScriptError:
            reply = await self._client.eval(command.text, 1, self._keys.meta, *args)
        return Reply(reply[0], reply[1:])

    async def register_replica(
        self, *, mode: Source, request: str, birth: str, router: str, by: str, key: str, endpoint: ReplicaEndpoint
    ) -> Reply:
        """`created` or `updated` and the event; `unchanged`, `tombstone` or `overridden`."""
        return await self._run(
            "register_replica",
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
        return await self._run(
            "deregister_replica",
            [key, incarnation, router, by, reason, "1" if when_drained else "0"],
        )

    async def set_admin(self, *, key: str, state: str, router: str, by: str, reason: str) -> Reply:
        """`set` and the event, `unchanged` or `not_found`."""
        return await self._run(
            "set_admin",
            [key, state, router, by, reason],
        )

    async def campaign(self, *, router: str, token: str, lease_seconds: float, seen_epoch: int, birth: str) -> Reply:
        """`elected` and the epoch; or `held`, by whom, epoch, elected_at_ms, remaining ms."""
        return await self._run(
            "campaign",
            [router, token, milliseconds(lease_seconds), str(seen_epoch), birth],
        )

    async def renew(self, *, token: str, lease_seconds: float) -> Reply:
        """`renewed` or `lost`."""
        return await self._run("renew", [token, milliseconds(lease_seconds)])

    async def resign(self, *, token: str, reason: str = "") -> Reply:
        """`resigned` or `lost`."""
        return await self._run("resign", [token, reason])

    async def step_down(self, *, epoch: int, sit_out_seconds: float, by: str, reason: str) -> Reply:
        """`deposed` and whose lease it was, or `over`."""
        return await self._run(
            "step_down",
            [str(epoch), milliseconds(sit_out_seconds), by, reason],
        )

    async def advance_ramps(self, *, token: str, epoch: int, slow_start_seconds: float, urls: Sequence[str]) -> Reply:
        """`advanced` and which of these ramp on, or `fenced`."""
        return await self._run(
            "advance_ramps",
            [token, str(epoch), milliseconds(slow_start_seconds), *urls],
        )

    async def declare_panic(self, *, token: str, epoch: int, why: str) -> Reply:
        """`declared`, `unchanged` or `fenced`."""
        return await self._run("declare_panic", [token, str(epoch), why])

    async def report_probes(
        self, *, token: str, epoch: int, batch: int, thresholds: Thresholds, results: Sequence[ProbeResult]
    ) -> Reply:
        """`applied`, how many were dropped, and the events; `duplicate` or `fenced`."""
        args = [token, str(epoch), str(batch), str(thresholds.failure), str(thresholds.recovery)]
        for result in results:
            ok = "0" if result.error is not None else "1"
            args += [result.key, result.incarnation, ok, f"{result.latency_ms:.3f}", result.error or ""]
        return await self._run(
            "report_probes",
            args,
        )

    async def record_outcome(
        self, *, result: ProbeResult, thresholds: Thresholds, router: str, by: str, is_passive: bool
    ) -> Reply:
        """`applied` and the event, if any; or `not_found`. Not safe to run twice."""
        return await self._run(
            "record_outcome",
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
        return await self._run(
            "heartbeat",
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
        return await self._run("reap_router", [key, by, milliseconds(affinity_seconds)])

    async def leave_cluster(self, *, key: str, affinity_seconds: float) -> Reply:
        """`left`; `partial` and how many leases are left; or `not_found`."""
        return await self._run("leave_cluster", [key, milliseconds(affinity_seconds)])

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
        return await self._run(
            "acquire_lease",
            [router, lease_id, str(max_queue), sequence, str(len(avoided)), *avoided, *excluded],
        )

    async def release_lease(self, *, router: str, lease_id: str, affinity_seconds: float) -> Reply:
        """`released` and the event, if a replica was removed with it; `abandoned`, of a waiting; or `not_found`."""
        return await self._run("release_lease", [router, lease_id, milliseconds(affinity_seconds)])

    async def restore_leases(self, *, router: str, leases: Mapping[str, str]) -> Reply:
        """`restored`, how many, how many urls are over capacity, these, and urls not there; or `not_registered`."""
        args = [router, *(text for lease in leases.items() for text in lease)]
        return await self._run("restore_leases", args)

    async def restore_view(
        self, *, birth: str, router: str, view_birth: str, view_revision: str, is_complete: bool, entries: Sequence[str]
    ) -> Reply:
        """`restored` and the events, or `superseded`. Entries come from `wire.restored_entry`."""
        return await self._run(
            "restore_view",
            [birth, router, view_birth, view_revision, "1" if is_complete else "0", *entries],
        )

    async def inspect_replicas(self, urls: Sequence[str]) -> Reply:
        """`inspected`, and eleven values for each url."""
        return await self._run("inspect_replicas", urls)

    async def inspect_leases(self, *, routers: Collection[str], urls: Collection[str]) -> Reply:
        """`inspected`, how many routers are none, these, and url, in_flight and leases where these differ."""
        return await self._run(
            "inspect_leases",
            [str(len(routers)), *routers, *urls],
        )

    async def repair_namespace(
        self, *, router: str, by: str, first_event: str, routers: Collection[str], urls: Collection[str]
    ) -> Reply:
        """`repaired`, and how many things were wrong."""
        return await self._run(
            "repair_namespace",
            [router, by, first_event, str(len(routers)), *routers, *urls],
        )

    async def inspect_queue(self, *, routers: Collection[str]) -> Reply:
        """`inspected`, how many wait of live routers, how many replicas have room, and the routers that are none."""
        return await self._run("inspect_queue", [*routers])

    async def inspect_waiters(self, *, router: str, lease_ids: Collection[str]) -> Reply:
        """`inspected`, how many wait, and the position of each of these, empty for who does not wait."""
        return await self._run("inspect_waiters", [router, *lease_ids])
