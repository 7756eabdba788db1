"""Completion of replica names in the shell."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator

import typer

LONGEST_SECONDS = 1.0
"""How long a press of the key may ask Redis."""


def complete_replicas(context: typer.Context, incomplete: str) -> list[str]:
    """Return the replicas that begin with a text: by name, and by url where a replica has no name of its own.

    Replicas that the command line has already are left out. Whatever goes wrong, there are no completions, and nothing
    is printed: the shell would print it into the line that somebody edits.
    """
    logging.disable()
    with _ended_after(LONGEST_SECONDS):
        try:
            found = _targets(context)
        except Exception:  # noqa: BLE001  a setting that is wrong, a Redis that is away: the command itself says it
            return []
    given = context.params.get("targets") or ()
    return [target for target in found if target.startswith(incomplete) and target not in given]


def _targets(context: typer.Context) -> list[str]:
    from shared_registry.admin.observer import Observer  # noqa: PLC0415  slow, and every command has this module
    from shared_registry.cli.access import observe  # noqa: PLC0415
    from shared_registry.cli.global_options import GlobalOptions  # noqa: PLC0415  which has the arguments that are completed

    options = GlobalOptions()
    for place in (context.parent, context):
        params = place.params if place is not None else {}
        options = GlobalOptions(params.get("redis") or options.redis, params.get("namespace") or options.namespace)
    replicas = observe(options.address(context.params.get("config")), Observer.overview).replicas
    named = sorted(one.endpoint.name for one in replicas if one.endpoint.name)
    return [*dict.fromkeys(named), *(one.endpoint.url for one in replicas if not one.endpoint.name)]


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process without a word if the block takes longer.

    Nothing milder is sure to end it: a lookup of a name runs in a thread, for which Python waits at its exit.
    """
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
