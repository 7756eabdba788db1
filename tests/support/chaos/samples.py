"""What Redis has, read at one instant, many times a second. Reads past our own code."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis import RedisError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared_registry.model.plan import bucket_of
from shared_registry.store.keys import Keys

EVERY_SECONDS = 0.05
ANSWER_SECONDS = 0.3

_READ = """
local prefix = ARGV[1]
local function hash(key)
  local flat, found = redis.call('HGETALL', key), {_ = ''}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
local function members(key)
  local found = {_ = 0}
  for _, url in ipairs(redis.call('ZRANGE', prefix .. key, 0, -1)) do found[url] = 1 end
  return found
end
local replicas, full, leases, counted = {_ = ''}, {_ = 0}, {_ = 0}, {}
for _, key in ipairs(redis.call('KEYS', prefix .. 'leases:*')) do
  for _, url in ipairs(redis.call('HVALS', key)) do leases[url] = (leases[url] or 0) + 1 end
end
for _, url in ipairs(redis.call('ZRANGE', prefix .. 'replicas', 0, -1)) do
  replicas[url] = hash(prefix .. 'replica:' .. url)
end
for _, url in ipairs(redis.call('SMEMBERS', prefix .. 'full')) do full[url] = 1 end
local now = redis.call('TIME')
return cjson.encode({
  now = now[1] .. '.' .. string.format('%06d', tonumber(now[2])), leader = hash(prefix .. 'leader'),
  plan = hash(prefix .. 'plan'),
  probers = redis.call('ZRANGE', prefix .. 'probers', 0, -1), replicas = replicas, full = full, leases = leases,
  primary = members('ready:primary'), secondary = members('ready:secondary'),
  revision = redis.call('HGET', prefix .. 'meta', 'revision'), keys = #redis.call('KEYS', prefix .. '*')})
"""


@dataclass(frozen=True)
class Sample:
    """The namespace at one instant.

    Attributes:
        at: The time on Redis's clock, which is this machine's.
        leader: The key of the leader whose lease has not ended; empty if there is none.
        leader_epoch: Its epoch.
        batch: The number of its last report.
        probers: The keys of the routers in `probers`.
        shares: The buckets of each router in the plan, by its key; empty if there is no plan.
        replicas: The hashes of all registered replicas, by url.
        ready: The urls in both ready sets.
        leases: How many leases name each url.
        key_count: How many keys there are.
    """

    at: float
    leader: str
    leader_epoch: int
    batch: int
    probers: frozenset[str]
    shares: Mapping[str, frozenset[str]]
    replicas: Mapping[str, Mapping[str, str]]
    ready: frozenset[str]
    full: frozenset[str]
    leases: Mapping[str, int]
    revision: str
    key_count: int

    def is_active(self, url: str) -> bool:
        return self.replicas.get(url, {}).get("admin") == "active"

    def status(self, url: str) -> str:
        return self.replicas.get(url, {}).get("status", "")

    def planned(self, url: str) -> str:
        """Return the router that probes a replica which was not handed over; empty if there is none."""
        if not self.shares:
            return self.leader
        return next((router for router, buckets in self.shares.items() if bucket_of(url) in buckets), "")

    def prober(self, url: str) -> str:
        """Return the router to which a replica was handed over; empty if it was not."""
        return self.replicas.get(url, {}).get("prober", "")


@dataclass
class Sampler:
    """Reads samples until `is_over`. `away` counts the times when Redis did not answer."""

    url: str
    keys: Keys
    samples: list[Sample] = field(default_factory=list)
    away: int = 0
    is_over: bool = False

    @property
    def last(self) -> Sample:
        return self.samples[-1]

    async def run(self) -> None:
        """Read until it is over."""
        client = Redis.from_url(
            self.url,
            decode_responses=True,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        async with client:
            while not self.is_over:
                began = time.monotonic()
                try:
                    found = parse(json.loads(await client.eval(_READ, 0, self.keys.prefix)))
                    self.samples.append(found)
                except (RedisError, OSError, TimeoutError):
                    self.away += 1
                await asyncio.sleep(max(0.01, EVERY_SECONDS - (time.monotonic() - began)))


def parse(found: dict[str, Any]) -> Sample:
    def without_mark(name: str) -> Any:
        # Lua's empty tables would arrive as lists, so each has an entry more.
        return {key: value for key, value in found[name].items() if key != "_"}

    leader = without_mark("leader")
    return Sample(
        at=float(found["now"]),
        leader=leader.get("router", ""),
        leader_epoch=int(leader.get("epoch", 0)),
        batch=int(leader.get("batch", 0)),
        probers=frozenset(member.split(" ")[2] for member in found["probers"]),
        shares={
            name.removeprefix("share:"): frozenset(buckets.split())
            for name, buckets in found["plan"].items()
            if name.startswith("share:")
        },
        replicas=without_mark("replicas"),
        ready=frozenset(without_mark("primary")) | frozenset(without_mark("secondary")),
        full=frozenset(without_mark("full")),
        leases=without_mark("leases"),
        revision=found["revision"] or "",
        key_count=found["keys"],
    )
