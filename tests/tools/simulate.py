"""Runs simulations: `python -m tests.tools.simulate FIRST [LAST]`, or `--minutes`; with `--only` some of the faults.

A seed is 2 to 12 faults over 3 routers and 4 replicas (see `tests/support/simulation/faults.py`). Each third seed also
has up to 5 replicas that announce themselves, with as many faults of their own. A seed takes 16 virtual
seconds in the mean: up to 14 s of faults, and then until all promises hold again, all sessions have ended and all
routers have stopped. In the mean 200 commands are executed, in 0.13 s of one processor. Seeds with two routers or
shorter faults run up to twice as fast, but find some missing rules less often a minute, so their size stays.

It uses all processors. It prints the shortest schedule of each seed that fails, and exits with 1 if there was one. With
`--without`, each of the rules that are taken out must make a seed fail.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.simulation.faults import Kind
    from tests.support.simulation.runner import Runner

real_time = time.monotonic


def main() -> int:
    """Run what the command line asks for."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":
        arguments = [sys.executable, "-m", "tests.tools.simulate", *sys.argv[1:]]
        os.execve(sys.executable, arguments, os.environ | {"PYTHONHASHSEED": "0"})

    from tests.support.simulation.environment import Environment

    environment = Environment()
    environment.install()
    from tests.support.simulation.runner import Runner

    _log(options.log)
    runner = Runner(environment, shrinks=not options.whole)
    gc.disable()
    gc.freeze()  # what was imported stays, and needs no look at each collection
    return _search_without_rules(runner, options) if options.without else _search(runner, options)


def _search(runner: Runner, options: argparse.Namespace) -> int:
    """Run seeds in all processes, and print a report on each that fails."""
    from tests.support.simulation.faults import Kind
    from tests.support.simulation.workers import results_of

    kinds = options.kinds and [Kind[name] for name in options.kinds]
    repeated = f" --kinds {' '.join(options.kinds)}" if options.kinds else ""

    def work(number: int) -> Iterator[str]:
        return (_report(runner, options, seed, kinds, repeated) for seed in _seeds(options, number, options.processes))

    began = real_time()
    count = failures = 0
    with contextlib.closing(results_of(options.processes, work)) as reports:
        for report in reports:
            count += 1
            if report:
                failures += 1
                print(report, flush=True)
                if failures == options.failures:
                    break
    seconds = real_time() - began
    print(f"{count} seeds in {seconds:.1f} s, {count / seconds * 60:.0f} a minute; {failures} failed")
    return int(failures > 0)


def _search_without_rules(runner: Runner, options: argparse.Namespace) -> int:
    """Run seeds without each rule until one fails, and print the report on it. The processes share the rules."""
    from tests.support.simulation.taken_out import RULES, without
    from tests.support.simulation.workers import results_of

    names = list(RULES) if options.without == "all" else [options.without]

    def find(name: str) -> str:
        began, repeated, count = real_time(), f" --without {shlex.quote(name)}", 0
        with without(RULES[name]):
            for seed in _seeds(options, 0, 1):
                count += 1
                if report := _report(runner, options, seed, RULES[name].kinds, repeated):
                    return f"{report}\n{count} seeds in {real_time() - began:.1f} s"
        return f"{count} seeds keep every promise"

    def work(number: int) -> Iterator[str]:
        return (f"without the rule that {name}:\n{find(name)}" for name in names[number :: options.processes])

    is_any_missed = False
    for found in results_of(min(options.processes, len(names)), work):
        print(found, flush=True)
        is_any_missed |= found.endswith("keep every promise")
    return int(is_any_missed)


def _report(runner: Runner, options: argparse.Namespace, seed: int, kinds: Sequence[Kind] | None, repeated: str) -> str:
    """Run a seed; return a report on it if it fails."""
    from tests.support.simulation.faults import schedule

    kept = None if options.only is None else options.only.replace("none", "").split(",")
    faults = [fault for fault in schedule(seed, kinds) if kept is None or str(fault.number) in kept]
    problems = runner.run(seed, faults)
    return runner.report(seed, faults, problems, repeated) if problems else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.simulate", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--failures", type=int, default=10, help="stop after so many")
    parser.add_argument("--only", help="numbers of the faults to keep, or none")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="faults of these kinds only, such as PAUSE")
    parser.add_argument("--whole", action="store_true", help="do not look for the shortest schedule")
    parser.add_argument("--without", metavar="RULE", help="take a rule out; `all` for each in turn")
    parser.add_argument("--log", help="show what the package logs at this level")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="one for each processor if not given")
    options = parser.parse_args()
    if options.log is not None or (options.last is None and options.minutes is None and options.without != "all"):
        options.processes = 1
    return options


def _log(level: str | None) -> None:
    if level is not None:
        logging.basicConfig(level=level.upper(), format="%(created).2f %(message)s")
    else:
        logging.getLogger("shared_registry").addHandler(logging.NullHandler())
        logging.getLogger("shared_registry").propagate = False


def _seeds(options: argparse.Namespace, number: int, step: int) -> Iterator[int]:
    """Yield every so many seeds, from one that depends on the number of the process."""
    began = real_time()
    last = options.first if options.last is None and options.minutes is None else options.last
    for seed in itertools.count(options.first + number, step):
        if (last is not None and seed > last) or (options.minutes and real_time() - began > 60 * options.minutes):
            return
        yield seed


if __name__ == "__main__":
    result = main()
    sys.unraisablehook = lambda _: None  # coroutines of killed routers cannot clean up when the process ends
    sys.exit(result)
