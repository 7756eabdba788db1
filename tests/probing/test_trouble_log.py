"""A line when trouble begins, and one when it ends."""

from __future__ import annotations

import logging

import pytest

from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.trouble_log import TroubleLog
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


def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log = TroubleLog(quiet_seconds=10, clock=FakeClock())
    for trouble in (FILES, PORTS, FILES, PORTS):
        log.note(trouble)
    assert [message.split("; ")[-1] for message in caplog.messages] == ["raise the limit", "widen the range"]
