"""What `status`, `routers`, `leases` and `queue` do, once their options are known. Imports no typer.

Each imports what writes its text when it runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from shared_registry.admin.observer import Observer, Overview
from shared_registry.cli.access import observe
from shared_registry.cli.console import print_json
from shared_registry.cli.global_options import GlobalOptions
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.replica_filter import SHOW_ALL, ReplicaFilter
from shared_registry.cli.tables import Shown, output_width, print_shown
from shared_registry.config.address import RegistryAddress

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
WAITERS_SHOWN = 20


def show_status(options: GlobalOptions, config: Path | None = None, chosen: ReplicaFilter = SHOW_ALL) -> None:
    """Show the status."""
    from shared_registry.cli.overview_document import overview_document  # noqa: PLC0415

    def text(settings: RegistryAddress, overview: Overview) -> Shown:
        from shared_registry.cli.status import overview_text  # noqa: PLC0415

        return overview_text(settings, overview, chosen, width=output_width())

    _show(
        options,
        config,
        Observer.overview,
        lambda settings, overview: overview_document(settings, overview, chosen),
        text,
    )


def show_removals(options: GlobalOptions, config: Path | None = None) -> None:
    """Show the replicas that operators removed."""
    from shared_registry.cli.removal_list import removals_document, removals_text  # noqa: PLC0415

    _show(options, config, Observer.removals, removals_document, removals_text)


def show_routers(options: GlobalOptions, config: Path | None = None) -> None:
    """Show the routers."""
    from shared_registry.cli.router_list import routers_document, routers_text  # noqa: PLC0415

    _show(
        options,
        config,
        Observer.routers,
        routers_document,
        lambda settings, found: routers_text(settings, found, width=output_width()),
    )


def show_leases(options: GlobalOptions, config: Path | None = None) -> None:
    """Show the leases."""
    from shared_registry.cli.lease_list import leases_document, leases_text  # noqa: PLC0415

    _show(options, config, Observer.leases, leases_document, leases_text)


def show_queue(options: GlobalOptions, config: Path | None = None, count: int = WAITERS_SHOWN) -> None:
    """Show the queue, with its first waiters."""
    from shared_registry.cli.queue_list import queue_document, queue_text  # noqa: PLC0415

    _show(options, config, lambda observer: observer.queue(count), queue_document, queue_text)


def _show(
    options: GlobalOptions,
    config: Path | None,
    read: Callable[[Observer], Awaitable[T]],
    document: Callable[[RegistryAddress, T], object],
    text: Callable[[RegistryAddress, T], Shown],
) -> None:
    """Read the registry once, and print the result as text or as JSON."""
    log_to_stderr()
    settings = options.address(config)
    found = observe(settings, read)
    if options.as_json:
        print_json(document(settings, found))
    else:
        print_shown(text(settings, found))
