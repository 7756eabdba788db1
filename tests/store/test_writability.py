"""When it is told that Redis can be read but not written: once, with the reason, and once when it is over."""

from __future__ import annotations

import logging

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.store.writability import Writability
from tests.support.fake_clock import FakeClock

REFUSED = StoreUnavailable("NOREPLICAS Not enough good replicas to write.")


class Reads:
    """When Redis was last read, as the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.at: float | None = None

    def now(self) -> None:
        self.at = self.clock.monotonic()

    def age(self) -> float | None:
        return None if self.at is None else self.clock.monotonic() - self.at


@pytest.fixture
def reads(clock: FakeClock) -> Reads:
    return Reads(clock)


@pytest.fixture
def writability(clock: FakeClock, reads: Reads) -> Writability:
    return Writability(read_age=reads.age, clock=clock)


def test_the_age_is_that_of_the_last_accepted_heartbeat(writability: Writability, clock: FakeClock) -> None:
    ages = [writability.age_seconds]
    writability.accepted()
    clock.jump(3)
    writability.refused(REFUSED)
    ages.append(writability.age_seconds)
    writability.accepted()
    ages.append(writability.age_seconds)
    assert ages == [None, 3, 0]


def test_each_change_is_reported_once(
    writability: Writability, clock: FakeClock, reads: Reads, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        writability.accepted()
        for _ in range(5):
            writability.refused(REFUSED)
            clock.jump(0.5)
            reads.now()
        failures = [writability.failure]
        writability.accepted()
        writability.accepted()
        failures.append(writability.failure)
    assert failures == [str(REFUSED), None]
    began, ended = (record.getMessage() for record in caplog.records)
    assert "reads work" in began
    assert str(REFUSED) in began
    assert "again, after 2.5 s" in ended


def test_nothing_is_reported_while_reads_fail_too(
    writability: Writability, clock: FakeClock, reads: Reads, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        reads.now()
        for _ in range(5):
            writability.refused(REFUSED)
            clock.jump(0.5)
        assert writability.failure is None
        writability.accepted()
    assert not caplog.records


def test_a_write_failure_is_not_reported_without_reads(
    writability: Writability, clock: FakeClock, reads: Reads
) -> None:
    writability.refused(REFUSED)
    clock.jump(1)
    reads.now()
    writability.refused(REFUSED)
    assert writability.failure
    clock.jump(6)
    assert writability.failure is None
