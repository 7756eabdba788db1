"""Lines reach their file whatever happens to it, the event loop never waits for it, and what is lost is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from pathlib import Path

import pytest

from shared_registry.errors import ConfigError
from shared_registry.proxy import log_file
from shared_registry.proxy.log_file import LogFile
from tests.support.until import SECONDS, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE = b"a line of the log\n"


@pytest.fixture(autouse=True)
def _long_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose no line because the thread that writes it waits for the processor."""
    monkeypatch.setattr(log_file, "LAST_SECONDS", SECONDS)


async def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    lines = [b"%d\n" % number for number in range(5000)]
    async with LogFile(str(path)).writing() as put:
        for line in lines[:2500]:
            put(line)
        await until(lambda: path.stat().st_size > 10_000, "lines are written while it runs")
        for line in lines[2500:]:
            put(line)
    assert path.read_bytes() == b"before\n" + b"".join(lines)


async def test_a_new_file_is_readable_by_owner_and_group_only(tmp_path: Path) -> None:
    async with LogFile(str(tmp_path / "access.log")).writing():
        pass
    assert (tmp_path / "access.log").stat().st_mode & 0o137 == 0


async def test_a_renamed_file_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path, former = tmp_path / "access.log", tmp_path / "access.log.1"
    async with LogFile(str(path)).writing() as put:
        put(b"one\n")
        await until(lambda: path.read_bytes() == b"one\n", "the first line is written")
        path.rename(former)
        put(b"two\n")
        await until(lambda: path.exists() and path.read_bytes() == b"two\n", "the second line is in a new file")
        path.unlink()
        put(b"three\n")
    assert (former.read_bytes(), path.read_bytes()) == (b"one\n", b"three\n")


async def test_a_truncated_file_goes_on_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with LogFile(str(path)).writing() as put:
        put(b"one\n")
        await until(lambda: path.read_bytes() == b"one\n", "the first line is written")
        os.truncate(path, 0)
        put(b"two\n")
    assert path.read_bytes() == b"two\n"


@pytest.mark.parametrize("name", ["", "missing/access.log", "pipe"])
async def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"access_log_file: cannot write to .*; give a file in a directory"):
        LogFile(str(tmp_path / name))


async def test_a_full_disk_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with LogFile("/dev/full").writing() as put:
        for _ in range(3):
            put(LINE)
            await until(lambda: "cannot write" in caplog.text, "the failure is told")
    texts = [record.getMessage() for record in caplog.records]
    assert sum("cannot write to /dev/full (" in text for text in texts) == 1
    assert texts[-1] == "access log: up to 3 lines could not be written to /dev/full"


async def test_a_line_after_a_torn_one_begins_a_new_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "access.log"
    write, calls = os.write, []

    def fill_the_disk(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:5] if len(calls) == 1 else data)

    async with LogFile(str(path)).writing() as put:
        monkeypatch.setattr(os, "write", fill_the_disk)
        put(LINE)
        await until(lambda: "cannot write" in caplog.text, "the failure is told")
        put(LINE)
    assert path.read_bytes() == LINE[:5] + b"\n" + LINE
    assert "1 lines were lost; writing to" in caplog.text


async def test_a_pipe_that_nobody_reads_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_file, "MOST_WAITING", 100_000)
    monkeypatch.setattr(log_file, "LAST_SECONDS", 0.1)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    count = 20_000
    try:
        async with asyncio.timeout(SECONDS), LogFile(str(path)).writing() as put:
            for _ in range(count):
                put(LINE)
                await asyncio.sleep(0)
        written = len(os.read(reader, 1 << 20)) // len(LINE)
    finally:
        os.close(reader)
    assert "takes lines too slowly; lines are lost" in caplog.text
    [lost] = [int(found[1]) for found in re.finditer(r"up to (\d+) lines could not be written", caplog.text)]
    assert count - written <= lost <= count


async def test_a_pipe_gets_whole_lines_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found, size = bytearray(), 2 * 20_000 * len(LINE)

    def has_read_all() -> bool:
        with contextlib.suppress(BlockingIOError):
            found.extend(os.read(reader, 10_000))
        return len(found) == size

    try:
        async with LogFile(str(path)).writing() as first, LogFile(str(path)).writing() as second:
            for _ in range(20_000):
                first(LINE)
                second(LINE.upper())
            await until(has_read_all, "all lines are read")
    finally:
        os.close(reader)
    assert set(bytes(found).splitlines(keepends=True)) == {LINE, LINE.upper()}
