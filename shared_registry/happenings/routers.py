"""What happens to routers, for all routers. What happens in a gap of the event stream is not reported."""

from __future__ import annotations

from dataclasses import dataclass

from shared_registry.happenings.happening import Happening


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterHappening(Happening):
    """Something happened to a router.

    Attributes:
        router: The key of the router.
        by: Who found it out, or the router that it is compared with; empty if nobody did.
        reason: Why; empty if there is nothing to add.
    """

    router: str
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterJoined(RouterHappening):
    """A router has joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLeft(RouterHappening):
    """A router has left, and its leases have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterExpired(RouterHappening):
    """A router sent no heartbeat, and its leases were ended by the router `by`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTroubled(RouterHappening):
    """A router cannot connect to replicas for a reason of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterRecovered(RouterHappening):
    """A router can connect to replicas again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsDiffer(RouterHappening):
    """A router joined with other settings than the router `by`, where all should have the same."""
