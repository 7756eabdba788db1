"""The quickstart and then the README, followed as they stand on one machine, work and leave nothing behind."""

from __future__ import annotations

import pytest

from tests.docs.conftest import RunScript
from tests.support.command import ROOT
from tests.support.page_commands import read_page

QUICKSTART = read_page((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"))
README = read_page((ROOT / "README.md").read_text(encoding="utf-8"))
CLEAN_UP = QUICKSTART.commands[-1]
LISTENING = """
printf '\\n### listening\\n'
for port in 6399 8000 8001 9001 9002; do
    if (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; then echo "$port"; fi
done
"""
LOOK = "printf '\\n### replicas\\n'; shared-registry status --wide; shared-registry namespaces\n"


def part_after(heading: str, text: str) -> str:
    return text.partition(f"### {heading}")[2].partition("\n### ")[0]


@pytest.mark.timeout(180)
def test_each_command_works_in_its_order(run_as_reader: RunScript) -> None:
    assert QUICKSTART.omitted == []
    done = run_as_reader(f"{QUICKSTART.script}\nwait\n{LISTENING}")
    assert done.returncode == 0, done.stdout
    shown = done.stdout
    assert "2 of 2 replicas healthy" in part_after("shared-registry status", shown)
    assert '"gpu-1"' in part_after("curl -sN", shown)
    drained = part_after("shared-registry drain", shown)
    assert "kernel update" in drained
    assert '"gpu-2"' in drained
    own = part_after("python own.py", shown).splitlines()
    assert "selected <Replica http://127.0.0.1:8000 healthy active>" in own
    assert "placed on http://127.0.0.1:8000" in own
    assert part_after("listening", shown).split() == []


@pytest.mark.timeout(180)
def test_the_readme_after_it_adds_no_phantom_replicas(run_as_reader: RunScript) -> None:
    before = QUICKSTART.script.partition(CLEAN_UP.strip())[0].rpartition("printf")[0]
    _, _, after = README.script.partition(README.commands[0])
    after = after.replace("kill $(jobs -p)", ": ")
    done = run_as_reader(f"{before}\n{after}\n{LOOK}")
    assert done.returncode == 0, done.stdout
    assert "http://127.0.0.1:8000\n" in part_after("python first.py", done.stdout)
    shown = part_after("replicas", done.stdout)
    assert "2 of 2 replicas healthy" in shown
    assert {word for word in shown.split() if word.startswith("http://127.0.0.1:80")} == {
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8001",
    }
    assert "gpu-1" in shown
