"""Every Redis key of a namespace. No other Python module spells a key.

    sr:{<ns>}:meta             hash    schema, history_id (random), revision (id of the last event), mark, epoch,
                                       next_order, queue_sequence, heartbeat_at_ms, heartbeats_resumed_at_ms,
                                       checked_at_ms, names_cursor, reap_after_ms, reap_until_ms, probers_version,
                                       slow_start_ms, panic, panic_percent, settling, restored:<history_id>
    sr:{<ns>}:replicas         zset    url -> order
    sr:{<ns>}:removed          zset    url -> removed_at_ms, until it is added again
    sr:{<ns>}:replica:<url>    hash    spec, health, admin state, load and revision of one replica
    sr:{<ns>}:ready:primary    zset    url -> in_flight/weight: exactly the primaries that may take a session now
    sr:{<ns>}:ready:secondary  zset    the same for the other replicas
    sr:{<ns>}:full             set     urls that are healthy and active, and at capacity
    sr:{<ns>}:spare:primary    zset    the same for primaries that are active and not healthy, and have lately answered
    sr:{<ns>}:spare:secondary  zset    the same for the other replicas of that kind
    sr:{<ns>}:spare:answered   zset    url -> last_ok_at_ms: these replicas, and those of them at capacity
    sr:{<ns>}:ejected          zset    url -> ejected_until_ms: replicas whose ejection may have to be ended then
    sr:{<ns>}:names            hash    name -> url of the replica that has it; or had it, if its hash says otherwise
    sr:{<ns>}:announced        zset    url -> when an announced replica expires unless a heartbeat comes before
    sr:{<ns>}:departing        zset    url -> when one that is out of service, or its tombstone, is looked at
    sr:{<ns>}:admin_by_name    hash    name or url -> admin state of an announced replica that is away
    sr:{<ns>}:leader           hash    router, token, epoch, elected_at_ms, batch, batch_done; expires with the lease
    sr:{<ns>}:settling         zset    router key -> 1 if it may bring something back after a loss, 0 if not; expires
    sr:{<ns>}:routers          zset    router key -> expires_at_ms
    sr:{<ns>}:probers          zset    "<probe print> <machine> <router key>" -> expires_at_ms: routers that can probe
    sr:{<ns>}:plan             hash    how routers share the probing; see lua/lib/plan.lua
    sr:{<ns>}:moved            zset    "<router key>/<lease id>" of a lease that has left this router -> when; expires
    sr:{<ns>}:router:<key>     hash    description of a router; reap_cursor and queue_cursor while it is removed
    sr:{<ns>}:leases:<key>     hash    lease id -> url: the sessions that this router has placed
    sr:{<ns>}:affinity:<sha>   string  url of the replica on which a session is or was; expires some time after its end
    sr:{<ns>}:several:<sha>    hash    url -> number of leases on it, of a session that has several leases at once
    sr:{<ns>}:queue            zset    <router key>/<lease id> of a session that waits -> its sequence
    sr:{<ns>}:inbox:<key>      stream  lease_id, url and revision of each slot that a waiter of this router was given
    sr:{<ns>}:sequence:<sha>   string  sequence of a session that waited when its router died or left; expires soon
    sr:{<ns>}:events           stream  every change in order: audit log and the mirrors' event stream

All carry the hash tag `{<ns>}`, so that one namespace lives in one slot of a Redis Cluster. `<url>` is canonical.
"""

from __future__ import annotations

import re

from shared_registry.errors import ConfigError

NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
EVERY_META = "sr:{*}:meta"
"""The glob of the `meta` keys of all namespaces. Other keys may match it too; see `namespace_of`."""
_META = re.compile(rf"sr:\{{({NAMESPACE_PATTERN.pattern})\}}:meta")


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        """Build the keys of a namespace.

        Raises:
            ConfigError: The namespace does not match `NAMESPACE_PATTERN`.
        """
        if not NAMESPACE_PATTERN.fullmatch(namespace):
            raise ConfigError(
                f"namespace: {namespace!r} must be 1 to 64 characters out of letters, digits, '_', '.' and '-'"
            )
        self.namespace = namespace
        self.prefix = f"sr:{{{namespace}}}:"
        self.meta = f"{self.prefix}meta"
        self.replicas = f"{self.prefix}replicas"
        self.removed = f"{self.prefix}removed"
        self.replica_prefix = f"{self.prefix}replica:"
        self.ready_primary = f"{self.prefix}ready:primary"
        self.ready_secondary = f"{self.prefix}ready:secondary"
        self.full = f"{self.prefix}full"
        self.spare_primary = f"{self.prefix}spare:primary"
        self.spare_secondary = f"{self.prefix}spare:secondary"
        self.spare_answered = f"{self.prefix}spare:answered"
        self.ejected = f"{self.prefix}ejected"
        self.names = f"{self.prefix}names"
        self.announced = f"{self.prefix}announced"
        self.departing = f"{self.prefix}departing"
        self.admin_by_name = f"{self.prefix}admin_by_name"
        self.leader = f"{self.prefix}leader"
        self.settling = f"{self.prefix}settling"
        self.routers = f"{self.prefix}routers"
        self.moved = f"{self.prefix}moved"
        self.probers = f"{self.prefix}probers"
        self.plan = f"{self.prefix}plan"
        self.router_prefix = f"{self.prefix}router:"
        self.leases_prefix = f"{self.prefix}leases:"
        self.affinity_prefix = f"{self.prefix}affinity:"
        self.several_prefix = f"{self.prefix}several:"
        self.queue = f"{self.prefix}queue"
        self.inbox_prefix = f"{self.prefix}inbox:"
        self.sequence_prefix = f"{self.prefix}sequence:"
        self.events = f"{self.prefix}events"

    def replica(self, url: str) -> str:
        """Return the key of the replica with this canonical url."""
        return self.replica_prefix + url

    def router(self, key: str) -> str:
        """Return the key of this router's record."""
        return self.router_prefix + key

    def leases(self, router: str) -> str:
        """Return the key of the leases that this router holds."""
        return self.leases_prefix + router

    def inbox(self, router: str) -> str:
        """Return the key of the stream of slots that this router's waiters were given."""
        return self.inbox_prefix + router

    def is_shared(self, key: str) -> bool:
        """Return whether a key belongs to the whole namespace, not to one replica, router or session."""
        own = (self.replica_prefix, self.router_prefix, self.leases_prefix, self.inbox_prefix)
        is_own = key.startswith((*own, self.affinity_prefix, self.sequence_prefix))
        return not is_own and self.expected_type(key) is not None

    def expected_type(self, key: str) -> str | None:
        """Return the Redis type that a key of this namespace must have; `None` for a key that is not part of it."""
        fixed = {
            self.meta: "hash",
            self.replicas: "zset",
            self.removed: "zset",
            self.ready_primary: "zset",
            self.ready_secondary: "zset",
            self.full: "set",
            self.spare_primary: "zset",
            self.spare_secondary: "zset",
            self.spare_answered: "zset",
            self.ejected: "zset",
            self.names: "hash",
            self.announced: "zset",
            self.departing: "zset",
            self.admin_by_name: "hash",
            self.leader: "hash",
            self.settling: "zset",
            self.routers: "zset",
            self.moved: "zset",
            self.probers: "zset",
            self.plan: "hash",
            self.queue: "zset",
            self.events: "stream",
        }
        if key.startswith((self.replica_prefix, self.router_prefix, self.leases_prefix, self.several_prefix)):
            return "hash"
        if key.startswith((self.affinity_prefix, self.sequence_prefix)):
            return "string"
        if key.startswith(self.inbox_prefix):
            return "stream"
        return fixed.get(key)


def namespace_of(key: str) -> str | None:
    """Return the namespace whose `meta` this key is; `None` for any other key."""
    found = _META.fullmatch(key)
    return found[1] if found else None
