"""The README is short, and its commands and its program work as they stand, in their order, on a fresh Redis."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.docs.conftest import RunScript
from tests.support.page_commands import ROOT, SHOW, read_page
from tests.support.programs import free_port, mock_replica

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PROGRAM: str
FROM_CHECKOUT: str
FROM_CHECKOUT, *_ = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
[PROGRAM] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
REDIS = "redis://127.0.0.1:6399/0"
REPLICA = "http://127.0.0.1:8000"
MAX_WORDS = 700
MAX_LINES = 12


def program(server: EmbeddedServer, namespace: str, replica: str) -> str:
    """Return the program with these addresses."""
    text = PROGRAM
    for shown, there in ((REDIS, server.url), ('"first"', f'"{namespace}"'), (REPLICA, replica)):
        assert shown in text
        text = text.replace(shown, there)
    return text


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=45, check=False)


def test_it_is_short() -> None:
    before, table, _ = TEXT.partition("\n| to | read |\n")
    assert table
    assert len(before.split()) <= MAX_WORDS


def test_its_program_has_at_most_twelve_lines() -> None:
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= MAX_LINES


@pytest.mark.timeout(180)
def test_its_commands_run_in_order_as_they_stand(run_as_reader: RunScript) -> None:
    page = read_page(TEXT)
    assert page.commands[0] == FROM_CHECKOUT
    script = page.script.replace(f"{SHOW}'make demo'\n{FROM_CHECKOUT}", "")
    assert "make" not in script
    done = run_as_reader(script)
    assert done.returncode == 0, done.stdout
    _, _, shown = done.stdout.partition("### python first.py\n")
    chosen = f"<Replica {REPLICA} healthy active>"
    assert [line for line in shown.splitlines() if line in {chosen, REPLICA}] == [chosen, REPLICA], shown
    assert "1 of 1 replicas healthy" in shown


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_checkouts_two_commands_are_demo_and_tests() -> None:
    demo, test = FROM_CHECKOUT.splitlines()
    tools = [f"BIN={Path(sys.executable).parent}", "--old-file=venv", "--old-file=runtime"]
    shown = subprocess.run([*demo.split(), *tools], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert "every step was observed" in shown.stdout, shown.stdout + shown.stderr
    planned = subprocess.run([*test.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".ci/test" in planned.stdout


def test_its_program_places_a_session_on_a_fresh_redis(server: EmbeddedServer, namespace: str) -> None:
    with mock_replica("gpu-1") as replica:
        done = run(program(server, namespace, replica))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"<Replica {replica} healthy active>\n{replica}\n"


def test_its_program_reports_in_time_that_the_replica_is_missing(server: EmbeddedServer, namespace: str) -> None:
    text = program(server, namespace, f"http://127.0.0.1:{free_port()}")
    assert "timeout_seconds=10)" in text
    assert "timeout=30)" in text
    begun = time.monotonic()
    done = run(text.replace("timeout_seconds=10)", "timeout_seconds=1)").replace("timeout=30)", "timeout=1)"))
    assert done.stdout == "None\n"
    assert "NoHealthyReplica" in done.stderr
    assert time.monotonic() - begun >= 1


def test_examples_name_replicas_on_this_machine_only() -> None:
    pages = [README, *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.*"), *ROOT.glob("shared_registry/**/*.py")]
    for page in pages:
        if page.suffix in {".md", ".py", ".yaml"}:
            text = page.read_text(encoding="utf-8")
            named = re.findall(r"https?://(\d+\.\d+\.\d+\.\d+)", text)
            assert [one for one in named if not one.startswith("127.0.0.")] == [], page
