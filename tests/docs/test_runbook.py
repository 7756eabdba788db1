"""Each entry of the runbook has a first command that exists, and a drill: a test in which what it describes happens."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support.command import ROOT, run

TESTS = ROOT / "tests"
PAGE = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Entry:
    """What a reader sees, and what is told to do."""

    symptom: str
    meaning: str
    command: str
    drill: str


def read_entries() -> list[Entry]:
    found = []
    for part in PAGE.split("\n### ")[1:]:
        symptom, _, rest = part.partition("\n")
        meaning, _, after = rest.strip().partition("\n\n")
        commands = re.findall(r"```sh\n(.*?)\n```", after, re.DOTALL)
        drills = re.findall(r"^Drill: `([\w/.]+::\w+)`$", after, re.MULTILINE)
        assert (len(commands), len(drills)) == (1, 1), symptom
        found.append(Entry(symptom, meaning, commands[0], drills[0]))
    return found


ENTRIES = read_entries()


def test_there_are_many_symptoms() -> None:
    assert len(ENTRIES) >= 25
    assert len({entry.symptom for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.symptom[:40])
def test_each_entry_has_a_drill(entry: Entry) -> None:
    file, _, test = entry.drill.partition("::")
    assert entry.meaning
    assert re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), entry.drill


@pytest.mark.parametrize("command", sorted({entry.command for entry in ENTRIES}))
def test_each_first_command_is_understood(command: str, server: EmbeddedServer, namespace: str) -> None:
    program, *words = shlex.split(command)
    if program != "shared-registry":
        assert program == "redis-cli"
        return
    variables = {"SHARED_REGISTRY_REDIS_URL": server.url, "SHARED_REGISTRY_NAMESPACE": namespace}
    done = run(*words, **variables)
    assert done.code != 2 or "no replica" in done.err, done.err
