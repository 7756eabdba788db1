"""How long Redis takes for one report of probes, whatever the results change: the scripts alone, without routers.

Three routers are listed as probers, so that all of a leader's failures are weighed. Each kind of result is reported for
all replicas, in as many calls as it takes, and the longest call counts, on the server's own clock.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from redis import Redis

from benchmarks.namespace import PATIENCE_SECONDS, client_of, fill
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.leader.unreported import RESULTS_AT_ONCE
from shared_registry.model import ProbeResult, RouterInfo, Term, Thresholds
from shared_registry.store.answers import new_token
from shared_registry.store.client import Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.lua import assemble
from shared_registry.store.replies import Elected

LOGGED_US = 300
SERVER_MS = Target(5.0)
NAMESPACE = "reports"
ROUTERS = ("r1", "r2", "r3")
LIMITS = Thresholds(failure=3, recovery=2, interval_seconds=5.0, timeout_seconds=2.0)


class Reports:
    """A leader that reports results about all replicas."""

    def __init__(self, store: Store, term: Term, raw: Any, results: list[ProbeResult]) -> None:
        self._store = store
        self._term = term
        self._raw = raw
        self._results = results
        self._batch = 0
        self._sha = hashlib.sha1(assemble("report_probes").encode(), usedforsecurity=False).hexdigest()

    def plant(self, fields: Mapping[str, str | int]) -> None:
        """Write fields into all replicas' hashes."""
        for result in self._results:
            self._raw.hset(Keys(NAMESPACE).replica(result.key), mapping=dict(fields))

    async def measure(self, what: str, make: Callable[[ProbeResult], ProbeResult]) -> Row:
        """Report a result for each replica."""
        self._raw.slowlog_reset()
        rest, calls = [make(result) for result in self._results], 0
        while rest:
            self._batch += 1
            report = await self._store.report(self._term, self._batch, rest[:RESULTS_AT_ONCE], LIMITS)
            rest, calls = rest[report.done :], calls + 1
        slow: Any = self._raw.slowlog_get(1000)
        took = sorted(entry["duration"] / 1000 for entry in slow if self._sha in str(entry["command"]))
        median = took[len(took) // 2] if took else 0.0
        note = f"the longest of {calls} calls; median of the {len(took)} over {LOGGED_US / 1000:g} ms: {median:.1f} ms"
        return Row(f"a report of probes: {what}", took[-1] if took else 0.0, "ms", target=SERVER_MS, note=note)


def failed(result: ProbeResult) -> ProbeResult:
    return replace(result, error="connection refused")


def unsure(result: ProbeResult) -> ProbeResult:
    return replace(result, error="too many open files", is_unsure=True)


def same(result: ProbeResult) -> ProbeResult:
    return result


async def report_times(*, is_quick: bool) -> list[Row]:
    """Return the longest call for each kind of change."""
    with EmbeddedServer(config={"slowlog-log-slower-than": LOGGED_US, "slowlog-max-len": 1000}) as server:
        await fill(server.url, 100 if is_quick else 500, NAMESPACE)
        with Redis.from_url(server.url, decode_responses=True) as raw:
            async with client_of(server.url) as client:
                reports = await _leading(client, raw)
                return await _rows(reports)


async def _leading(client: Any, raw: Any) -> Reports:
    keys = Keys(NAMESPACE)
    stores = {
        router: Store(Clients.of(client), keys, router=router, timeout_seconds=PATIENCE_SECONDS) for router in ROUTERS
    }
    for router, store in stores.items():
        info = RouterInfo(
            key=router, host="h", pid=1, version="1", started_at=time.time(), machine=router, probe_print="same"
        )
        await store.heartbeat(info, expiry_seconds=600)
    now = int(time.time() * 1000)
    no_outage = {"reap_after_ms": now - 1, "heartbeats_resumed_at_ms": now - 10**6, "reap_until_ms": now + 10**7}
    raw.hset(keys.meta, mapping=no_outage)
    store, token = stores[ROUTERS[0]], new_token()
    elected = await store.campaign(token, lease_seconds=600, seen_epoch=0)
    if not isinstance(elected, Elected):
        raise TypeError("somebody else leads")
    urls: list[str] = raw.zrange(keys.replicas, 0, -1)
    results = [ProbeResult(url, raw.hget(keys.replica(url), "incarnation"), 1.0) for url in urls]
    return Reports(store, Term(elected.epoch, token), raw, results)


async def _rows(reports: Reports) -> list[Row]:
    rows = [
        await reports.measure("all is well", same),
        await reports.measure("first failures", failed),
        await reports.measure("second failures, which begin questions", failed),
        await reports.measure("successes, which end questions", same),
    ]
    reports.plant({"suspected_at_ms": 1, "consecutive_failures": 1})
    await reports.measure("", failed)
    reports.plant({"suspected_until_ms": 1})
    rows += [
        await reports.measure("third failures, which are verdicts", failed),
        await reports.measure("failures of unhealthy replicas", failed),
        await reports.measure("successes of unhealthy replicas", same),
        await reports.measure("further successes, which make them healthy", same),
    ]
    reports.plant({"suspected_at_ms": 1, "prober": ROUTERS[1], "prober_until_ms": 1})
    rows.append(await reports.measure("failures, which end hand-overs", failed))
    reports.plant({"suspected_at_ms": 1})
    rows.append(await reports.measure("probes that could not be made, which begin questions", unsure))
    return rows
