"""What the demo has seen, and how it is told: to people as it happens, to programs at the end."""

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
    """What became of one step.

    Attributes:
        observed: Whether every router was seen to do what it should, in time, and to stay so.
        seconds: From the act to when the last router showed it; `None` where it was not observed.
        selected: The replica that took the latest session through each live router.
        leader: The router that leads in the end, where all agree; `None` otherwise, as is `epoch`.
        sessions: How many were opened meanwhile, one after the other through each router.
        failed_sessions: How many did not come about.
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
    """The whole demo."""

    observed: bool
    seconds: float
    redis: str
    namespace: str
    steps: Sequence[StepResult]


class Audience(Protocol):
    """To whom the demo is shown."""

    def begin(self, redis: str, namespace: str) -> None:
        """Redis runs; processes start."""

    def act(self, number: int, title: str) -> None:
        """A step begins."""

    def see(self, step: StepResult) -> None:
        """A step is over."""

    def end(self, outcome: Outcome) -> None:
        """All is over."""

    def keep(self, routers: Mapping[str, str], redis: str, port: int, namespace: str) -> None:
        """All stays up to be looked at."""


class JsonAudience:
    """Hears one document at the end."""

    def __init__(self, print_json: Callable[[dict[str, Any]], None]) -> None:
        self._print_json = print_json

    def begin(self, redis: str, namespace: str) -> None:
        """Say nothing."""

    def act(self, number: int, title: str) -> None:
        """Say nothing."""

    def see(self, step: StepResult) -> None:
        """Say nothing."""

    def end(self, outcome: Outcome) -> None:
        """Print what happened."""
        self._print_json(asdict(outcome) | {"settings": FAST_SETTINGS})

    def keep(self, routers: Mapping[str, str], redis: str, port: int, namespace: str) -> None:
        """Say nothing: the document has named the Redis."""


class ConsoleAudience:
    """Watches."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, redis: str, namespace: str) -> None:
        """Say what is about to be seen."""
        defaults = {item.name: item.default for item in fields(RouterConfig)}
        values = ", ".join(f"{name} {value:g} ({defaults[name]:g})" for name, value in FAST_SETTINGS.items())
        self._say("A Valkey, 4 replicas (replica-1 is the primary) and 3 routers, each a process of this machine.")
        self._say(f"Redis: {redis}, namespace {namespace}", style="dim")
        self._say(f"Faster than the defaults, which stand in brackets: {values}", style="dim")

    def act(self, number: int, title: str) -> None:
        """Announce a step."""
        self._say(f"\n{number}. {title}", style="bold")

    def see(self, step: StepResult) -> None:
        """Tell what every router selects, who leads, and how long it took."""
        if step.detail:
            self._say(f"   {step.detail}", style="" if step.observed else "red")
        self._say("   " + "   ".join(f"{router} selects {replica}" for router, replica in step.selected.items()))
        took = f"seen after {step.seconds:.2f} s" if step.seconds is not None else "not observed"
        leader = f"{step.leader} leads in epoch {step.epoch}" if step.leader else "no agreement on who leads"
        self._say(f"   {leader}   {took}", style="green" if step.observed else "red")

    def end(self, outcome: Outcome) -> None:
        """Sum up."""
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
        self._say("")
        self._console.print(table)
        verdict = "every step was observed" if outcome.observed else "NOT every step was observed"
        self._say(f"\n{verdict}, in {outcome.seconds:.1f} s", style="bold green" if outcome.observed else "bold red")

    def keep(self, routers: Mapping[str, str], redis: str, port: int, namespace: str) -> None:
        """Say where to look."""
        keys = Keys(namespace)
        self._say("\nAll stays up until Ctrl-C. Have a look:", style="bold")
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
            self._say(f"  {line}")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, soft_wrap=True)
