"""Reading again what no event carries prepares the choice anew only if that can change it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared_registry.model import AdminState, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.selection import Selection
from shared_registry.selection.levels import Levels
from shared_registry.selection.view import View

HEALTHY = ReplicaHealth(ReplicaStatus.HEALTHY)
RECORD = ReplicaRecord("http://a:1", ReplicaEndpoint("http://a:1", order=0), HEALTHY, revision="5-0")


class CountedView(Selection):
    """The selection of a view of one replica, and how often a replica was moved in it."""

    def __init__(self, record: ReplicaRecord) -> None:
        super().__init__()
        self.preparations = 0
        self.view = View(self, panic_percent=50, now=lambda: 9.0)
        self.view.replace_all({record.key: record})
        self.preparations = 0

    def prepare(self, levels: Levels, *, is_spread: bool = False, is_withheld: bool = False) -> None:
        self.preparations += any(changed is None or changed for changed in levels.changed)
        super().prepare(levels, is_spread=is_spread, is_withheld=is_withheld)


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
    assert counted.view.panic is not None
    assert counted.view.panic.until == 9.0 + 3600
