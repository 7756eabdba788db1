"""A line when trouble begins, and one when it ends."""

from __future__ import annotations

import logging

import pytest

from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.trouble_log import FORGET_SECONDS, LONGEST_REASON, TroubleLog
from tests.support.fake_clock import FakeClock

FILES = OwnTrouble("too many open files", "raise the limit")
PORTS = OwnTrouble("cannot assign requested address", "widen the range")
BEGIN = "router: cannot connect to replicas: too many open files; not counted as failures of replicas; raise the limit"


def test_begin_and_end_of_trouble_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    log = TroubleLog(quiet_seconds=10, clock=clock)
    log.connected()
    for _ in range(100):
        log.note(FILES)
        clock.jump(5)
        log.connected()  # at the limit successes and failures alternate
    assert (log.is_on, caplog.messages) == (True, [BEGIN])
    clock.jump(5)
    log.connected()
    log.connected()
    end = "router: connects to replicas again; 100 attempts have failed: too many open files"
    assert (log.is_on, caplog.messages) == (False, [BEGIN, end])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    log.note(FILES)
    assert caplog.messages == [BEGIN, end, BEGIN]


def test_trouble_is_forgotten_where_nothing_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    log = TroubleLog(quiet_seconds=10, clock=clock)
    assert (log.is_on, log.reason) == (False, "")
    log.note(PORTS)
    log.note(FILES)
    clock.jump(FORGET_SECONDS - 1)
    assert (log.is_on, log.reason) == (True, "cannot assign requested address; too many open files")
    clock.jump(1)
    assert (log.is_on, log.reason) == (False, "")
    log.note(FILES)
    assert (log.is_on, len(caplog.messages)) == (True, 2)


def test_trouble_lasts_where_probes_are_rare() -> None:
    clock = FakeClock()
    log = TroubleLog(quiet_seconds=600, clock=clock)
    log.note(FILES)
    clock.jump(599)
    assert log.is_on


def test_a_long_reason_is_cut() -> None:
    log = TroubleLog(quiet_seconds=10, clock=FakeClock())
    log.note(OwnTrouble("x" * 1000, ""))
    assert len(log.reason) == LONGEST_REASON


def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log = TroubleLog(quiet_seconds=10, clock=FakeClock())
    for trouble in (FILES, PORTS, FILES, PORTS):
        log.note(trouble)
    assert [message.split("; ")[-1] for message in caplog.messages] == ["raise the limit", "widen the range"]
