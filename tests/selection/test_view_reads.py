"""Reading again what no event carries prepares the choice anew only if that can change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from shared_registry.model import AdminState, Replica, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.selection import priority
from shared_registry.selection.view import View

HEALTHY = ReplicaHealth(ReplicaStatus.HEALTHY)
RECORD = ReplicaRecord("http://a:1", ReplicaEndpoint("http://a:1", order=0), HEALTHY, revision="5-0")


class CountedView:
    """A view of one replica, and how often it has prepared its choice."""

    def __init__(self, record: ReplicaRecord) -> None:
        self.preparations = 0
        self.view = View(self._prefer, panic_percent=50, now=lambda: 9.0)
        self.view.replace_all({record.key: record})
        self.preparations = 0

    def _prefer(self, replicas: Iterable[Replica]) -> tuple[Replica, ...]:
        self.preparations += 1
        return priority(replicas)


def test_counters_change_nothing_about_the_choice() -> None:
    counted = CountedView(RECORD)
    counted.view.read([replace(RECORD, in_flight=3, health=replace(HEALTHY, last_ok_at=9.0, consecutive_successes=4))])
    assert counted.preparations == 0
    assert counted.view.all()[0].in_flight == 3


@pytest.mark.parametrize(
    "change",
    [
        {"health": ReplicaHealth(ReplicaStatus.UNHEALTHY)},
        {"admin": AdminState.DRAINING},
        {"ejected_until": 99.0},
        {"endpoint": ReplicaEndpoint("http://a:1", order=0, weight=2.0)},
        {"revision": "6-0"},
    ],
)
def test_what_decides_the_choice_prepares_it(change: dict[str, object]) -> None:
    counted = CountedView(RECORD)
    counted.view.read([replace(RECORD, **change)])  # type: ignore[arg-type]
    assert counted.preparations == 1
    assert (counted.view.first is None) is not counted.view.all()[0].record.is_selectable


def test_in_a_panic_the_times_of_probes_decide_the_choice() -> None:
    down = replace(RECORD, health=ReplicaHealth(ReplicaStatus.UNHEALTHY, last_ok_at=8.0))
    counted = CountedView(down)
    assert counted.view.panic is not None
    counted.view.read([replace(down, health=replace(down.health, last_ok_at=9.0))])
    assert counted.preparations == 1
