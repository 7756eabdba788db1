"""A Redis Cluster of three primaries with a replica each, for tests that break it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.until import until

SLOTS = 16384
PRIMARIES = 3


class RedisCluster:
    """Its nodes: the primaries first, then the replica of each."""

    def __init__(self, nodes: Sequence[EmbeddedServer]) -> None:
        self.nodes = nodes
        self.raws = [Redis.from_url(node.url, decode_responses=True, socket_timeout=5) for node in nodes]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def namespace_on(self, shard: int) -> str:
        """Return a namespace whose keys are on the primary of that number."""
        names = (f"n{number}" for number in range(1000))
        return next(name for name in names if key_slot(Keys(name).meta.encode()) * PRIMARIES // SLOTS == shard)

    @staticmethod
    def namespace_in_first(slots: int) -> str:
        """Return a namespace whose hash slot is one of the first ones, which are the first to be moved."""
        names = (f"n{number}" for number in range(1_000_000))
        return next(name for name in names if key_slot(Keys(name).meta.encode()) < slots)

    async def form(self) -> None:
        """Make the nodes one cluster, and wait until all of them say that it is well."""
        for number, raw in enumerate(self.raws[:PRIMARIES]):
            first, last = -(-SLOTS * number // PRIMARIES), -(-SLOTS * (number + 1) // PRIMARIES) - 1
            raw.execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
            raw.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.raws[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        await until(lambda: all(len(self.known_to(raw)) == len(self.nodes) for raw in self.raws), seconds=30)
        for raw, primary in zip(self.raws[PRIMARIES:], self.raws[:PRIMARIES], strict=True):
            raw.execute_command("CLUSTER", "REPLICATE", primary.execute_command("CLUSTER", "MYID"))
        await until(lambda: all(map(self.is_healthy, self.raws)), seconds=30)
        replicas = self.raws[PRIMARIES:]
        await until(
            lambda: all(raw.info("replication").get("master_link_status") == "up" for raw in replicas), seconds=30
        )

    @staticmethod
    def known_to(raw: Redis) -> list[str]:
        return [line for line in str(raw.execute_command("CLUSTER", "NODES")).split("@") if line][1:]

    @staticmethod
    def is_healthy(raw: Redis) -> bool:
        return "cluster_state:ok" in str(raw.execute_command("CLUSTER", "INFO")).replace("': '", ":")

    @staticmethod
    def is_in_sync(replica: Redis) -> bool:
        return bool(replica.info("replication").get("master_link_status") == "up")

    def is_promoted(self, shard: int) -> bool:
        return bool(self.raws[PRIMARIES + shard].role()[0] == "master")

    @contextlib.contextmanager
    def migrating(self, namespace: str, *, source: int, target: int) -> Iterator[None]:
        """Let the hash slot of a namespace migrate from one primary to another; in the end it stays where it was."""
        slot = key_slot(Keys(namespace).meta.encode())
        ids = [self.raws[node].execute_command("CLUSTER", "MYID") for node in (source, target)]
        self.raws[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        self.raws[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        try:
            yield
        finally:
            for node in (source, target):
                self.raws[node].execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

    def move_key(self, key: str, *, source: int, target: int) -> bool:
        """Move one key of a migrating hash slot; return whether it could be moved."""
        try:
            reply = self.raws[source].execute_command("MIGRATE", "127.0.0.1", self.nodes[target].port, key, 0, 5000)
        except ResponseError:  # the target has a key of that name
            return False
        return str(reply) in ("OK", "NOKEY")

    def finish_migration(self, namespace: str, *, source: int, target: int) -> list[str]:
        """Move the keys that are left, and give the hash slot to its new node; return the keys that could not move."""
        slot = key_slot(Keys(namespace).meta.encode())
        keys = self.raws[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        if stuck := [key for key in keys if not self.move_key(key, source=source, target=target)]:
            return stuck
        owner = self.raws[target].execute_command("CLUSTER", "MYID")
        for raw in self.raws[:PRIMARIES]:
            raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", owner)
        return []

    def close(self) -> None:
        for raw in self.raws:
            raw.close()


async def formed(start: Callable[..., EmbeddedServer]) -> RedisCluster:
    """Start the servers of a cluster, and form it."""
    config = {"cluster-enabled": "yes", "cluster-node-timeout": 1500, "repl-diskless-sync-delay": 0}
    cluster = RedisCluster([start(config=config) for _ in range(2 * PRIMARIES)])
    await cluster.form()
    return cluster
