"""Runs simulations: `python -m tests.tools.simulate FIRST [LAST]`, or `--minutes`; with `--only` some of the faults.

Prints the shortest schedule of each seed that fails, and exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time

real_time = time.monotonic


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.simulate", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--failures", type=int, default=10, help="stop after so many")
    parser.add_argument("--only", help="numbers of the faults to keep, or none")
    parser.add_argument("--whole", action="store_true", help="do not look for the shortest schedule")
    parser.add_argument(
        "--without", action="append", default=[], metavar="RULE", help="take a rule out; `all` for each"
    )
    parser.add_argument("--log", help="show what the package logs at this level")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.tools.simulate", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )

    from tests.support.simulation.environment import Environment

    environment = Environment()
    environment.install()
    import logging

    from tests.support.simulation.faults import schedule
    from tests.support.simulation.runner import Runner, text_of

    if options.log:
        logging.basicConfig(level=options.log.upper(), format="%(created).2f %(message)s")
    else:
        logging.getLogger("shared_registry").addHandler(logging.NullHandler())
        logging.getLogger("shared_registry").propagate = False
    gc.disable()
    runner = Runner(environment, shrinks=not options.whole)
    if options.without:
        from tests.support.simulation.taken_out import RULES

        names = list(RULES) if options.without == ["all"] else options.without
        seeds = range(options.first, (options.last or options.first) + 1)
        found = {name: runner.missed(RULES[name], seeds) for name in names}
        for name, told in found.items():
            print(f"without the rule that {name}: {told or 'nothing breaks'}")
        return int(None in found.values())
    if options.only is not None:
        kept = {int(number) for number in options.only.split(",")} if options.only != "none" else set()
        faults = [fault for fault in schedule(options.first) if fault.number in kept]
        problems = runner.run(options.first, faults)
        print(text_of(options.first, faults, problems) if problems else f"seed {options.first} is right")
        return int(bool(problems))
    began = real_time()
    last = options.first if options.last is None and options.minutes is None else options.last
    count = failures = 0
    for seed in itertools.count(options.first):
        if (last is not None and seed > last) or (options.minutes and real_time() - began > 60 * options.minutes):
            break
        count += 1
        if runner.run(seed):
            failures += 1
            print(runner.report(seed, schedule(seed)), flush=True)
            if failures == options.failures:
                break
    seconds = real_time() - began
    print(f"{count} seeds in {seconds:.1f} s, {count / seconds * 60:.0f} a minute; {failures} failed")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
