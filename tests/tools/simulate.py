"""Runs simulations: `python -m tests.tools.simulate FIRST [LAST]`, or `--minutes`; with `--only` some of the faults.

Prints the shortest schedule of each seed that fails, and exits with 1 if there was one. With `--without`, each of the
rules that are taken out must make a seed fail.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator

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
    from tests.support.simulation.faults import Kind
    from tests.support.simulation.runner import Runner
    from tests.support.simulation.taken_out import RULES, without

    _log(options.log)
    gc.disable()
    runner = Runner(environment, shrinks=not options.whole)
    if not options.without:
        return int(_search(runner, options, options.kinds and [Kind[name] for name in options.kinds], "") > 0)
    is_any_missed = False
    options.failures = 1
    for name in list(RULES) if options.without == "all" else [options.without]:
        print(f"without the rule that {name}:", flush=True)
        with without(RULES[name]):
            if not _search(runner, options, RULES[name].kinds, f" --without {shlex.quote(name)}"):
                is_any_missed = True
    return int(is_any_missed)


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
    return parser.parse_args()


def _log(level: str | None) -> None:
    if level is not None:
        logging.basicConfig(level=level.upper(), format="%(created).2f %(message)s")
    else:
        logging.getLogger("shared_registry").addHandler(logging.NullHandler())
        logging.getLogger("shared_registry").propagate = False


def _seeds(options: argparse.Namespace) -> Iterator[int]:
    began = real_time()
    last = options.first if options.last is None and options.minutes is None else options.last
    for seed in itertools.count(options.first):
        if (last is not None and seed > last) or (options.minutes and real_time() - began > 60 * options.minutes):
            return
        yield seed


def _search(runner: object, options: argparse.Namespace, kinds: object, repeated: str) -> int:
    """Run seeds, print a report on each that fails, and return how many failed."""
    from tests.support.simulation.faults import schedule
    from tests.support.simulation.runner import Runner

    assert isinstance(runner, Runner)
    began = real_time()
    if options.kinds:
        repeated += f" --kinds {' '.join(options.kinds)}"
    kept = None if options.only is None else options.only.replace("none", "").split(",")
    count = failures = 0
    for seed in _seeds(options):
        count += 1
        faults = [fault for fault in schedule(seed, kinds) if kept is None or str(fault.number) in kept]  # type: ignore[arg-type]
        if runner.run(seed, faults):
            failures += 1
            print(runner.report(seed, faults, repeated), flush=True)
            if failures == options.failures:
                break
    seconds = real_time() - began
    print(f"{count} seeds in {seconds:.1f} s, {count / seconds * 60:.0f} a minute; {failures} failed")
    return failures


if __name__ == "__main__":
    result = main()
    sys.unraisablehook = lambda _: None  # coroutines of killed routers cannot clean up when the process ends
    sys.exit(result)
