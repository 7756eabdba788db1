"""The results of the demo's steps, and their output: text for each step, or one JSON document at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from shared_registry.config import RouterConfig
from shared_registry.demo.cluster import FAST_SETTINGS
from shared_registry.store.keys import Keys

CHAT = '{"stream": true, "messages": [{"role": "user", "content": "good morning"}]}'


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step.

    Attributes:
        number: The number of the step, from 1.
        title: What the step shows.
        observed: Whether every router reached the expected state before the deadline, and stayed in it.
        seconds: The time from the action until the last router reached that state; `None` if it was not observed.
        deadline_seconds: The time limit of the step.
        selected: The replica that took the latest session through each live router.
        leader: The leader at the end of the step, if all routers agree; otherwise `None`.
        epoch: The leader's epoch, if all routers agree; otherwise `None`.
        sessions: The number of sessions opened during the step, one after the other through each router.
        failed_sessions: The number of sessions that could not be opened.
        detail: What the step did, or the reason why it was not observed.
    """

    number: int
    title: str
    observed: bool
    seconds: float | None
    deadline_seconds: float
    selected: dict[str, str | None]
    leader: str | None
    epoch: int | None
    sessions: int
    failed_sessions: int
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of the whole demo."""

    observed: bool
    seconds: float
    redis: str
    namespace: str
    steps: Sequence[StepResult]


class Audience(Protocol):
    """Receives the progress of the demo and shows it."""

    def begin(self, redis: str, namespace: str) -> None:
        """Called when Redis runs, before the other processes start."""

    def act(self, number: int, title: str) -> None:
        """Called when a step begins."""

    def end_step(self, step: StepResult) -> None:
        """Called when a step is over."""

    def end(self, outcome: Outcome) -> None:
        """Called after the last step."""

    def keep(self, routers: Mapping[str, str], redis: str, port: int, namespace: str) -> None:
        """Called after the end if the cluster stays up."""


class JsonAudience:
    """Prints one JSON document at the end."""

    def __init__(self, print_json: Callable[[dict[str, Any]], None]) -> None:
        self._print_json = print_json

    def begin(self, redis: str, namespace: str) -> None:
        """Print nothing."""

    def act(self, number: int, title: str) -> None:
        """Print nothing."""

    def end_step(self, step: StepResult) -> None:
        """Print nothing."""

    def end(self, outcome: Outcome) -> None:
        """Print the results of all steps, and the settings."""
        self._print_json(asdict(outcome) | {"settings": FAST_SETTINGS})

    def keep(self, routers: Mapping[str, str], redis: str, port: int, namespace: str) -> None:
        """Print nothing: the document contains the address of Redis."""


class ConsoleAudience:
    """Prints the progress for people."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, redis: str, namespace: str) -> None:
        """Print the processes of the cluster and its settings."""
        defaults = {item.name: item.default for item in fields(RouterConfig)}
        values = ", ".join(f"{name} {value:g} ({defaults[name]:g})" for name, value in FAST_SETTINGS.items())
        self._print("A Valkey, 4 replicas (replica-1 is the primary) and 3 routers, each a process of this machine.")
        self._print(f"Redis: {redis}, namespace {namespace}", style="dim")
        self._print(f"Faster settings than the defaults, which are in brackets: {values}", style="dim")

    def act(self, number: int, title: str) -> None:
        """Print the title of the step."""
        self._print(f"\n{number}. {title}", style="bold")

    def end_step(self, step: StepResult) -> None:
        """Print the replica that each router selects, the leader, and the time that the step took."""
        if step.detail:
            self._print(f"   {step.detail}", style="" if step.observed else "red")
        self._print("   " + "   ".join(f"{router} selects {replica}" for router, replica in step.selected.items()))
        took = f"seen after {step.seconds:.2f} s" if step.seconds is not None else "not observed"
        leader = f"{step.leader} leads in epoch {step.epoch}" if step.leader else "no agreement on who leads"
        self._print(f"   {leader}   {took}", style="green" if step.observed else "red")

    def end(self, outcome: Outcome) -> None:
        """Print a table of all steps, and whether all of them were observed."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("", "step", "observed", "selected", "leader", "epoch"):
            table.add_column(heading, overflow="fold")
        for heading in ("sessions", "failed", "took"):
            table.add_column(heading, justify="right", no_wrap=True)
        for step in outcome.steps:
            selected = ", ".join(dict.fromkeys(str(replica) for replica in step.selected.values()))
            took = "-" if step.seconds is None else f"{step.seconds:.2f} s"
            observed = "yes" if step.observed else "NO"
            facts = (step.leader or "-", str(step.epoch or "-"), str(step.sessions), str(step.failed_sessions), took)
            table.add_row(str(step.number), step.title, observed, selected, *facts)
        self._print("")
        self._console.print(table)
        verdict = "every step was observed" if outcome.observed else "NOT every step was observed"
        self._print(f"\n{verdict}, in {outcome.seconds:.1f} s", style="bold green" if outcome.observed else "bold red")

    def keep(self, routers: Mapping[str, str], redis: str, port: int, namespace: str) -> None:
        """Print urls and commands that show the running cluster."""
        keys = Keys(namespace)
        self._print("\nThe cluster runs until Ctrl-C. These urls and commands show it:", style="bold")
        router = next(iter(routers.values()))
        for line in (
            *(f"{name}  {url}/status" for name, url in routers.items()),
            f"curl -N {router}/v1/chat/completions -d '{CHAT}'",
            f"shared-registry --redis {redis} -n {namespace} status",
            f"redis-cli -p {port} hgetall '{keys.leader}'",
            f"redis-cli -p {port} zrange '{keys.routers}' 0 -1 withscores",
            f"redis-cli -p {port} zrange '{keys.ready_primary}' 0 -1 withscores",
            f"redis-cli -p {port} xrevrange '{keys.events}' + - count 5",
        ):
            self._print(f"  {line}")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, soft_wrap=True)
