"""Since when nobody is the leader, and why, as far as events and heartbeats tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared_registry.model import Event, EventKind, RouterRecord

_DEPARTURES = {EventKind.ROUTER_LEFT: "left", EventKind.ROUTER_EXPIRED: "sent no heartbeats"}


@dataclass(frozen=True, slots=True)
class Vacancy:
    """The time without a leader.

    Attributes:
        since: When it began, in seconds on the Redis server's clock; `None` if that is not known. A leader that stopped
            without a word was last known to live then.
        why: What ended the last term; empty if that is not known.
    """

    since: float | None = None
    why: str = ""


def vacancy_of(events: Sequence[Event], routers: Iterable[RouterRecord], now: float) -> Vacancy:
    """Return since when nobody leads, and why.

    Args:
        events: The latest events, oldest first.
        routers: The routers that are listed, also those that have expired.
        now: The time on the Redis server's clock.
    """
    departed: dict[str, Vacancy] = {}
    for event in reversed(events):
        if event.kind is EventKind.LEADER_RESIGNED:
            asked = f", asked by {event.by}" if event.by else ""
            return Vacancy(event.at, f"{event.router} resigned{asked}" + (f": {event.reason}" if event.reason else ""))
        if event.kind in _DEPARTURES:
            departed.setdefault(event.router, Vacancy(event.at, f"{event.router} {_DEPARTURES[event.kind]}"))
        if event.kind is EventKind.LEADER_ELECTED:
            return departed.get(event.router) or _lapsed(event, routers, now)
    return Vacancy()


def _lapsed(elected: Event, routers: Iterable[RouterRecord], now: float) -> Vacancy:
    record = next((one for one in routers if one.info.key == elected.router), None)
    if record is not None and record.expires_at <= now:
        return Vacancy(record.last_heartbeat_at, f"{elected.router} sends no heartbeats")
    return Vacancy(None, f"the lease of {elected.router} has ended")
