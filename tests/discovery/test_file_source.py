"""What a file of replicas answers: its replicas, or why it is not used."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.discovery import SourceAnswer
from shared_registry.discovery.file import MOST_BYTES, FileSource
from shared_registry.model import ReplicaEndpoint
from tests.support.descriptors import out_of_descriptors

GOOD = "- {url: http://127.0.0.1:8000, capacity: 2, primary: true}\n- http://127.0.0.2:8000\n"


def source(path: Path) -> FileSource:
    return FileSource(DiscoveryRule("file", "fleet", path=str(path), interval_seconds=0.02))


@contextlib.asynccontextmanager
async def asked(path: Path) -> AsyncIterator[AsyncIterator[SourceAnswer]]:
    async with contextlib.aclosing(source(path).answers()) as answers:
        yield answers


async def answer_of(path: Path) -> SourceAnswer:
    async with asked(path) as answers:
        return await anext(answers)


@pytest.mark.parametrize("text", [GOOD, "replicas:\n" + GOOD])
async def test_a_file_has_replicas_as_the_config_has_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(text)
    answer = await answer_of(path)
    assert [one.endpoint for one in answer.found] == [
        ReplicaEndpoint("http://127.0.0.1:8000", primary=True, capacity=2),
        ReplicaEndpoint("http://127.0.0.2:8000"),
    ]
    assert not answer.failure


async def test_a_file_may_say_that_there_is_no_replica(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text("replicas: []\n")
    async with asked(path) as answers:
        assert [await anext(answers), await anext(answers)] == [SourceAnswer(is_partial=True), SourceAnswer()]


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "there is no list of replicas, but None"),
        ("replicas:\n", "there is no list of replicas, but None"),
        ("{}", "there is no list of replicas, but None"),
        ("- http://127.0.0.1:8000\n- {url: http://127.0.0.2:80", "is not usable: while parsing a flow mapping"),
        ("- http://127.0.0.1:8000\n- htp://127.0.0.2\n", "replicas[1].url: "),
        ("- http://127.0.0.1:8000\n- http://127.0.0.1:8000/\n", "Duplicate of replicas[0]"),
        ("- {url: http://127.0.0.1:8000, capcity: 3}\n", "replicas[0]: unknown key 'capcity'"),
        ("- {url: http://127.0.0.1:8000, capacity: -3}\n", "replicas[0].capacity: must be a whole number"),
        ("replcas: []\n", "unknown key 'replcas'"),
        ("replicas: [] \nreplicas: []\n", "stands twice"),
        ("[" * 5000, "is not usable"),
        ("\x00", "is not usable"),
        ("x" * (MOST_BYTES + 1), f"more than {MOST_BYTES} bytes"),
    ],
)
async def test_a_wrong_file_is_a_failure(tmp_path: Path, text: str, failure: str) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(text)
    answer = await answer_of(path)
    assert failure in answer.failure
    assert str(path) in answer.failure
    assert not answer.found


async def test_bytes_that_are_no_text_are_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_bytes(b"\xff\xfe\xfa- a")
    assert "is not usable" in (await answer_of(path)).failure


async def test_a_missing_file_and_a_directory_are_failures(tmp_path: Path) -> None:
    assert "No such file" in (await answer_of(tmp_path / "missing")).failure
    assert "Is a directory" in (await answer_of(tmp_path)).failure


async def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path, other = tmp_path / "replicas.yaml", tmp_path / "other"
    path.write_text(GOOD)
    async with asked(path) as answers, asyncio.timeout(30):
        assert len((await anext(answers)).found) == 2
        other.write_text("- http://127.0.0.3:8000\n")
        other.replace(path)
        while len((answer := await anext(answers)).found) != 1:
            assert not answer.failure
        path.unlink()
        while not (answer := await anext(answers)).failure:
            pass
        path.write_text(GOOD)
        while len((answer := await anext(answers)).found) != 2:
            assert answer.failure


async def test_a_file_is_not_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(GOOD)
    async with asked(path) as answers, asyncio.timeout(30):
        assert len((await anext(answers)).found) == 2
        for number in range(3, 30):  # the file grows between any two checks
            path.write_text("".join(f"- http://127.0.0.{at}:8000\n" for at in range(3, number + 1)))
            answer = await anext(answers)
            assert (len(answer.found), answer.is_partial) == (2, True)
        while len((answer := await anext(answers)).found) != 27:
            assert answer.is_partial
        assert not answer.is_partial


async def test_half_a_file_at_the_start_is_partial(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(GOOD)
    async with asked(path) as answers, asyncio.timeout(30):
        for number in range(20):  # a leader's term begins while the file is written
            answer = await anext(answers)
            assert (len(answer.found), answer.is_partial) == (2, True)
            path.write_text(GOOD + "# more to come\n" * (number + 1))
        path.write_text(GOOD + "- http://127.0.0.3:8000\n")
        while len((answer := await anext(answers)).found) != 3:
            assert answer.is_partial
        assert not (await anext(answers)).is_partial


async def test_a_read_that_hangs_is_a_failure_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pipe = tmp_path / "replicas.yaml", tmp_path / "pipe"
    path.write_text(GOOD)
    async with asked(path) as answers, asyncio.timeout(30):
        assert len((await anext(answers)).found) == 2
        monkeypatch.setattr("shared_registry.discovery.file.READ_SECONDS", 0.1)
        os.mkfifo(pipe)
        pipe.replace(path)  # opening it hangs until somebody writes
        while not (answer := await anext(answers)).failure:
            assert len(answer.found) == 2
        threads = thread_count()
        for _ in range(5):
            assert "does not respond" in (await anext(answers)).failure
        assert thread_count() <= threads
        await asyncio.to_thread(path.write_text, "- http://127.0.0.3:8000\n")
        while len((answer := await anext(answers)).found) != 1:
            assert "does not respond" in answer.failure


async def test_a_file_that_cannot_be_opened_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(GOOD)
    async with asked(path) as answers, asyncio.timeout(30):
        with out_of_descriptors():
            answer = await anext(answers)
        assert "Too many open files" in answer.failure
        while not (answer := await anext(answers)).found:
            assert answer.failure
        with out_of_descriptors():
            assert (await anext(answers)).found  # it has not changed, so nothing is opened


def thread_count() -> int:
    """Return how many threads this process has, also those that Python does not list."""
    return len(list(Path("/proc/self/task").iterdir()))
