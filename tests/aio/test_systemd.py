"""What systemd is told, over a real socket of each kind."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from shared_registry.aio.systemd import ServiceNotifier
from tests.support.service_manager import ServiceManager


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_service_tells_its_life(tmp_path: Path, is_abstract: bool) -> None:
    with ServiceManager(None if is_abstract else tmp_path) as manager:
        notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000"})
        assert notifier.watchdog_seconds == 3.0
        notifier.begin_reload()  # nothing is ready yet
        notifier.end_reload()
        notifier.status("starting")
        notifier.ready("serving")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.begin_reload()
        notifier.end_reload()
        notifier.alive()
        notifier.stopping("bye", seconds=40.5)
        notifier.ready("too late")
        notifier.begin_reload()
        notifier.stopping("again", seconds=1)
        starting, ready, reloading, reloaded, stopping = manager.read()
        assert manager.signs_of_life == 1
    assert starting == {"STATUS": "starting"}
    assert ready == {"READY": "1", "STATUS": "serving"}
    assert reloading.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert 0 <= int(reloading["MONOTONIC_USEC"]) - before < 60_000_000
    assert reloaded == {"READY": "1"}
    assert stopping == {"STOPPING": "1", "STATUS": "bye", "EXTEND_TIMEOUT_USEC": "40500000"}


def test_without_systemd_nothing_is_sent() -> None:
    notifier = ServiceNotifier({"WATCHDOG_USEC": "3000000"})
    assert notifier.watchdog_seconds is None
    notifier.ready("serving")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_only_the_process_that_is_watched_is_watched(variables: dict[str, str], seconds: float | None) -> None:
    assert ServiceNotifier({"NOTIFY_SOCKET": "@nobody", **variables}).watchdog_seconds == seconds


@pytest.mark.parametrize("name", ["/nowhere/notify", "@sr-test-nobody", "relative", "vsock:2:1", "@"])
def test_a_socket_that_cannot_be_used_is_one_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "shared_registry"):
        notifier = ServiceNotifier({"NOTIFY_SOCKET": name})
        for _ in range(3):
            notifier.ready("serving")
            notifier.alive()
    assert len(caplog.records) == 1
