"""What a router's parent process and its workers tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from shared_registry.config import RouterConfig


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a worker.

    Attributes:
        config: The settings in force.
        number: The worker's number, from 1.
        url: The router's url.
        wait_seconds: How long to try to reach Redis at the start; `None` has no limit.
        as_json: Whether to log in JSON.
    """

    config: RouterConfig
    number: int
    url: str
    wait_seconds: float | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: stop.

    Attributes:
        is_urgent: Whether the grace period ends now.
    """

    is_urgent: bool


@dataclass(frozen=True, slots=True)
class Reload:
    """To a worker: use changed settings."""

    config: RouterConfig


@dataclass(frozen=True, slots=True)
class Joined:
    """From a worker: it has joined the registry."""


@dataclass(frozen=True, slots=True)
class Opened:
    """From a worker: it places sessions, or has waited long enough for that at its start."""


@dataclass(frozen=True, slots=True)
class Alive:
    """From a worker, periodically: its event loop runs."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker, as its last message: it cannot run.

    Attributes:
        text: The reason.
    """

    text: str
