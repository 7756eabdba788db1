"""Runs scenarios, and prints at the end of the run what each of them cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support.failover.scenarios import Scenario, run

RunScenario = Callable[[Scenario], Awaitable[None]]
PROPERTY = "failover"


@pytest.fixture
def run_scenario(
    own_server: Callable[..., EmbeddedServer],
    redis_binary: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> RunScenario:
    """Run a scenario on servers of its own."""

    async def run_it(scenario: Scenario) -> None:
        record_property(PROPERTY, str(await run(scenario, own_server, tmp_path, redis_binary)))

    return run_it


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", ())
    rows = [text for report in passed for name, text in report.user_properties if name == PROPERTY]
    if rows:
        terminalreporter.section("time until all is right again after a failover")
        for row in sorted(rows, key=lambda row: row.rpartition("   ")):
            terminalreporter.line(str(row))
