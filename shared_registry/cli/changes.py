"""Changes several replicas one after the other, and reports the outcome for each, as text and as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from shared_registry.admin.blast_radius import Room
from shared_registry.admin.replica_changes import Change
from shared_registry.cli.access import address_document
from shared_registry.cli.console import printable
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.store.failures import was_refused

NOT_TRIED, UNKNOWN, FAILED = "not_tried", "unknown", "failed"


class Named(Protocol):
    """A target or an endpoint."""

    @property
    def url(self) -> str:
        """The replica's url, in the spelling with which it was registered."""

    @property
    def name(self) -> str | None:
        """The replica's name, if it has one."""


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome for one replica.

    Attributes:
        url: The replica's url.
        name: The replica's name, if it has one.
        outcome: The value of a `Change`; `unknown` if the reply was lost, `failed` if Redis refused the change, or
            `not_tried` after an earlier failure.
        sessions: The sessions on it before the change; `None` if that was not read.
    """

    url: str
    name: str | None
    outcome: str
    sessions: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """The outcomes for all replicas.

    Attributes:
        each: One result for each replica, in the order given.
        failure: The first error, after which no further change was tried. The caller raises it after it has printed
            the results.
        left: What takes new sessions after the change; `None` for a change that takes no slots away.
        is_dry_run: Nothing was changed.
    """

    each: list[Result]
    failure: StoreError | None = None
    left: Room | None = None
    is_dry_run: bool = False

    @property
    def are_as_asked(self) -> bool:
        """Whether every replica is now in the state that was asked for."""
        return self.failure is None and all(one.outcome != Change.GONE.value for one in self.each)


async def change_each(targets: Sequence[N], change: Callable[[N], Awaitable[Change]]) -> Results:
    """Change one replica after the other, in the order given, until the first failure."""
    results: list[Result] = []
    failure: StoreError | None = None
    for target in targets:
        outcome = NOT_TRIED
        if failure is None:
            try:
                outcome = (await change(target)).value
            except StoreError as error:
                failure = error
                outcome = FAILED if was_refused(error) or not isinstance(error, StoreUnavailable) else UNKNOWN
        results.append(Result(target.url, target.name, outcome))
    return Results(results, failure)


def results_document(config: RouterConfig, by: str, results: Results) -> dict[str, Any]:
    """Return the results as a JSON object."""
    each: list[dict[str, Any]] = [{"url": one.url, "name": one.name, "outcome": one.outcome} for one in results.each]
    document = {**address_document(config), "by": by, "results": each}
    if results.left is None:
        return document
    for shown, one in zip(each, results.each, strict=True):
        shown["sessions"] = one.sessions
    left = {"replicas": results.left.replicas, "free_slots": results.left.free_slots}
    return {**document, "left": left, "is_dry_run": results.is_dry_run}


def result_lines(results: Results) -> list[str]:
    """Return one line of text for each result."""
    lines = [
        f"{shown_name(one.url, one.name)}: {one.outcome.replace('_', ' ')}" + sessions_text(one.sessions)
        for one in results.each
    ]
    return lines if results.left is None else [*lines, room_text(results.left)]


def shown_name(url: str, name: str | None) -> str:
    """Return a replica's name and url, without characters that could control the terminal."""
    return printable(f"{name} {url}" if name else url)


def sessions_text(sessions: int | None) -> str:
    """Return how many sessions are on a replica, as the end of a line about it; empty without sessions."""
    if not sessions:
        return ""
    return f", {sessions} {'session' if sessions == 1 else 'sessions'} on it"


def room_text(room: Room) -> str:
    """Return what takes new sessions, as one line."""
    if not room.replicas:
        return "left: no replica that takes new sessions"
    count = f"{room.replicas} {'replica takes' if room.replicas == 1 else 'replicas take'} new sessions"
    if room.free_slots is None:
        return f"left: {count}, without a limit"
    return f"left: {count}, {room.free_slots} {'slot is' if room.free_slots == 1 else 'slots are'} free"
