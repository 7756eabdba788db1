"""Work that is divided among processes: its results, its failures, and its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.support.simulation.workers import WorkerFailed, results_of


@pytest.mark.parametrize("workers", [1, 3])
def test_all_results_of_all_workers_come(workers: int) -> None:
    def work(number: int) -> Iterator[str]:
        return (f"{number}: {'long ' * 50_000}{one}" for one in range(4))

    results = list(results_of(workers, work))
    assert len(results) == 4 * workers
    assert {result[0] for result in results} == {str(number) for number in range(workers)}
    assert [result[-1] for result in results if result[0] == "0"] == ["0", "1", "2", "3"]


def test_a_worker_that_fails_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> Iterator[str]:
        yield "first"
        if number == 1:
            raise ZeroDivisionError("of the second worker")

    with pytest.raises(WorkerFailed):
        list(results_of(2, work))
    assert "of the second worker" in capfd.readouterr().err


def test_closing_ends_workers_that_never_finish() -> None:
    def work(number: int) -> Iterator[str]:
        while True:
            yield str(os.getpid())

    with contextlib.closing(results_of(2, work)) as results:
        pid = int(next(results))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
