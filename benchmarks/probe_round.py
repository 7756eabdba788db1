"""What one round of probes costs the probing process: CPU seconds for N replicas, every one up.

    python -m benchmarks.probe_round --origins 300 1000 [--uvloop] [--only prober ...]

The replicas are one other process on 127.0.x.y (Linux only), each its own origin. A contender probes all of them
round by round: the first round connects (cold), the others find their connections open (warm; the median is shown).
CPU is this process's own, `time.process_time`. A contender that takes longer than --limit-seconds for a round is
stopped there and shown as unfinished. All but `httpx` have 128 probes under way at most. Among the benchmarks only the
first two run.

    prober                   HttpProber
    httpx                    one default httpx.AsyncClient and all probes at once, as the in-process router has it
    httpx per origin         a client and a transport for every origin, one SSL context
    httpcore per origin      an httpcore.AsyncHTTPConnection for every origin
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.namespace import local_urls
from benchmarks.probe_contenders import CONTENDERS
from benchmarks.processes import Child
from benchmarks.rows import Row, Target

TITLE = "CPU of a warm round of probes"
TIMEOUT_SECONDS = 2.0
ORIGINS = (300, 1_000)
ROUNDS, ROUNDS_QUICK = 6, 2
HTTPX_FINISHES = 300
LIMIT_SECONDS, LIMIT_SECONDS_QUICK = 10.0, 5.0
TARGETS = {1_000: Target(0.4)}


@dataclass
class Rounds:
    """What a contender needed. Seconds."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    is_finished: bool = True

    @property
    def warm_cpu(self) -> float:
        """The median of the rounds after the first; of an unfinished first one, what it had used when stopped."""
        return statistics.median(self.cpu[1:] or self.cpu)


async def measure(*, is_quick: bool) -> list[Row]:
    """Return what a warm round costs, beside one default httpx client: quickly, only where that finishes."""
    rounds, limit = (ROUNDS_QUICK, LIMIT_SECONDS_QUICK) if is_quick else (ROUNDS, LIMIT_SECONDS)
    rows = []
    async with Child("replica_process", {}) as replicas:
        for origins in ORIGINS:
            urls = [f"{url}/health" for url in local_urls(origins, replicas.ready["port"])]
            ours = await run_rounds("prober", urls, rounds, limit)
            if max(ours.failures):
                raise RuntimeError(f"{max(ours.failures)} of {origins} probes failed")
            what, target = f"{origins:,} replicas", TARGETS.get(origins)
            if is_quick and origins > HTTPX_FINISHES:
                rows.append(Row(what, ours.warm_cpu, "s", target=target))
            else:
                rival = await run_rounds("httpx", urls, rounds, limit)
                rows.append(Row(what, ours.warm_cpu, "s", rival.warm_cpu, _note(rival), target))
    return rows


def _note(httpx: Rounds) -> str:
    note = "one httpx client"
    if not httpx.is_finished:
        return f"{note}, cut off"
    return f"{note}, {max(httpx.failures)} failed" if max(httpx.failures) else note


async def run_rounds(name: str, urls: list[str], rounds: int, limit_seconds: float) -> Rounds:
    """Let one contender probe all urls, round after round."""
    result = Rounds()
    contender, concurrency = CONTENDERS[name]
    turns = asyncio.Semaphore(concurrency)
    async with contender() as probe:

        async def once(url: str) -> bool:
            async with turns:
                try:
                    return (await probe(url, timeout=TIMEOUT_SECONDS))[1] is None
                except Exception:  # noqa: BLE001 - however it failed, it is a failure
                    return False

        for _ in range(rounds):
            cpu, wall = time.process_time(), time.perf_counter()
            tasks = [asyncio.create_task(once(url)) for url in urls]
            done, late = await asyncio.wait(tasks, timeout=limit_seconds)
            for task in late:
                task.cancel()
            result.cpu.append(time.process_time() - cpu)
            result.wall.append(time.perf_counter() - wall)
            result.failures.append(len(late) + sum(not task.result() for task in done))
            if late:
                await asyncio.wait(late)
                result.is_finished = False
                break
    return result


def show(name: str, origins: int, result: Rounds) -> None:
    """Print one line of the table."""
    cold, warm = result.cpu[0], result.cpu[1:] or [float("nan")]
    wall = statistics.median(result.wall[1:] or result.wall)
    note = "" if result.is_finished else "  unfinished"
    print(
        f"{name:22}{origins:>8}{cold:>10.3f}{statistics.median(warm):>10.3f}{min(warm):>10.3f}{wall:>10.3f}"
        f"{max(result.failures):>10}{note}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU seconds of one round of probes.")
    parser.add_argument("--origins", type=int, nargs="+", default=list(ORIGINS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--limit-seconds", type=float, default=LIMIT_SECONDS)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    arguments = parser.parse_args()
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if arguments.uvloop:
        import uvloop  # noqa: PLC0415 - only where asked for

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_compare(arguments))


async def _compare(arguments: argparse.Namespace) -> None:
    print(f"{'CPU seconds a round':22}{'origins':>8}{'cold':>10}{'warm':>10}{'best':>10}{'(wall)':>10}{'failed':>10}")
    async with Child("replica_process", {}) as replicas:
        for origins in arguments.origins:
            urls = [f"{url}/health" for url in local_urls(origins, replicas.ready["port"])]
            for name in arguments.only:
                show(name, origins, await run_rounds(name, urls, arguments.rounds, arguments.limit_seconds))


if __name__ == "__main__":
    main()
