"""Since when nobody is the leader, and why."""

from __future__ import annotations

import itertools

import pytest

from shared_registry.admin.vacancy import Vacancy, vacancy_of
from shared_registry.model import Event, EventKind, RouterInfo, RouterRecord

_ids = itertools.count(1)


def event(kind: EventKind, at: float, router: str, *, by: str = "", reason: str = "") -> Event:
    return Event(f"{next(_ids)}-0", kind, at, "0-0", router, 1, by=by, reason=reason)


def router(key: str, *, heard_at: float, expires_at: float) -> RouterRecord:
    return RouterRecord(RouterInfo(key, "host", 1, "1.0", 0.0), heard_at, expires_at)


ELECTED = event(EventKind.LEADER_ELECTED, 10.0, "r~1")


@pytest.mark.parametrize(
    ("later", "routers", "expected"),
    [
        (
            [event(EventKind.LEADER_RESIGNED, 20.0, "r~1", by="ann@desk", reason="update")],
            [],
            Vacancy(20.0, "r~1 resigned, asked by ann@desk: update"),
        ),
        ([event(EventKind.ROUTER_EXPIRED, 30.0, "r~1")], [], Vacancy(30.0, "r~1 sent no heartbeats")),
        ([event(EventKind.ROUTER_LEFT, 30.0, "r~1")], [], Vacancy(30.0, "r~1 left")),
        (
            [event(EventKind.ROUTER_LEFT, 30.0, "r~2")],
            [router("r~1", heard_at=35.0, expires_at=40.0)],
            Vacancy(35.0, "r~1 sends no heartbeats"),
        ),
        ([], [router("r~1", heard_at=98.0, expires_at=103.0)], Vacancy(None, "the lease of r~1 has ended")),
    ],
)
def test_the_end_of_the_last_term_is_found(later: list[Event], routers: list[RouterRecord], expected: Vacancy) -> None:
    assert vacancy_of([ELECTED, *later], routers, 100.0) == expected


def test_an_empty_history_tells_nothing() -> None:
    assert vacancy_of([], [], 100.0) == Vacancy()
