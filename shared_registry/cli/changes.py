"""Changes to several replicas in turn: what became of each, for people and for programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from shared_registry.admin.operator import Change
from shared_registry.cli.access import place
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError, StoreUnavailable

NOT_TRIED, UNKNOWN, FAILED = "not_tried", "unknown", "failed"


class Named(Protocol):
    """A target or an endpoint."""

    @property
    def url(self) -> str:
        """As it was given when it was registered."""

    @property
    def name(self) -> str | None:
        """Its label."""


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one replica: the value of a `Change`, or that it is unknown, failed, or was not tried."""

    url: str
    name: str | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Results:
    """What became of all of them. The first failure ends the work; it is raised once everything is told."""

    each: list[Result]
    failure: StoreError | None = None

    @property
    def are_as_asked(self) -> bool:
        """Whether every replica is now as was asked for."""
        return self.failure is None and all(one.outcome != Change.GONE.value for one in self.each)


async def change_each(targets: Sequence[N], change: Callable[[N], Awaitable[Change]]) -> Results:
    """Change one after the other, in the order given."""
    results: list[Result] = []
    failure: StoreError | None = None
    for target in targets:
        outcome = NOT_TRIED
        if failure is None:
            try:
                outcome = (await change(target)).value
            except StoreError as error:
                failure = error
                outcome = UNKNOWN if isinstance(error, StoreUnavailable) else FAILED
        results.append(Result(target.url, target.name, outcome))
    return Results(results, failure)


def results_document(config: RouterConfig, by: str, results: Results) -> dict[str, Any]:
    """Return the results for programs."""
    each = [{"url": one.url, "name": one.name, "outcome": one.outcome} for one in results.each]
    return {**place(config), "by": by, "results": each}


def result_lines(results: Results) -> list[str]:
    """Return the results for people."""
    return [
        f"{f'{one.name} {one.url}' if one.name else one.url}: {one.outcome.replace('_', ' ')}" for one in results.each
    ]
