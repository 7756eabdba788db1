"""Changes several replicas one after the other, and reports the outcome for each, as text and as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from shared_registry.admin.operator import Change
from shared_registry.cli.access import address_document
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError, StoreUnavailable

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
    """

    url: str
    name: str | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Results:
    """The outcomes for all replicas.

    Attributes:
        each: One result for each replica, in the order given.
        failure: The first error, after which no further change was tried. The caller raises it after it has printed
            the results.
    """

    each: list[Result]
    failure: StoreError | None = None

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
                outcome = UNKNOWN if isinstance(error, StoreUnavailable) else FAILED
        results.append(Result(target.url, target.name, outcome))
    return Results(results, failure)


def results_document(config: RouterConfig, by: str, results: Results) -> dict[str, Any]:
    """Return the results as a JSON object."""
    each = [{"url": one.url, "name": one.name, "outcome": one.outcome} for one in results.each]
    return {**address_document(config), "by": by, "results": each}


def result_lines(results: Results) -> list[str]:
    """Return one line of text for each result."""
    return [
        f"{f'{one.name} {one.url}' if one.name else one.url}: {one.outcome.replace('_', ' ')}" for one in results.each
    ]
