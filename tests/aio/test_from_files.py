"""Values made of files: what makes them be read again, and what happens to the value meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared_registry.aio import from_files
from shared_registry.aio.from_files import FromFiles
from tests.support.until import until

pytestmark = pytest.mark.asyncio


class Numbers:
    """A file with a number, and the value made of it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.readings = 0
        self.write("1")
        self.made = FromFiles([str(file)], self._read, what="numbers")

    def write(self, text: str) -> None:
        """Replace the file in one step: a thread reads it."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def _read(self) -> int:
        self.readings += 1
        return int(self.file.read_text())

    async def becomes(self, value: int) -> None:
        async def is_so() -> bool:
            return self.made.value == value

        await until(is_so, f"the value is {value}")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_files, "CHECK_SECONDS", 0.02)


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    return Numbers(tmp_path / "number")


@contextlib.asynccontextmanager
async def followed(numbers: Numbers) -> AsyncIterator[None]:
    following = asyncio.create_task(numbers.made.follow())
    try:
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def test_only_a_change_is_read(numbers: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0
    stamp_of = from_files.stamp_of

    def counted(file: str) -> from_files.Stamp:
        nonlocal checks
        checks += 1
        return stamp_of(file)

    monkeypatch.setattr(from_files, "stamp_of", counted)

    async def were_checked_often() -> bool:
        return checks > 5

    async with followed(numbers):
        await until(were_checked_often, "the file was checked several times")
        assert (numbers.made.value, numbers.readings) == (1, 1)
        numbers.write("22")
        await numbers.becomes(22)
    assert numbers.readings == 2


async def test_reload_reads_what_seems_unchanged(numbers: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_files, "CHECK_SECONDS", 600.0)
    monkeypatch.setattr(from_files, "stamp_of", lambda file: (file, 0, 0, 0))
    async with followed(numbers):
        numbers.write("2")
        numbers.made.reload()
        await numbers.becomes(2)


async def test_an_unusable_file_is_told_once_and_tried_again(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(from_files, "RETRY_SECONDS", 0.0)
    caplog.set_level(logging.INFO)

    async def was_tried_often() -> bool:
        return numbers.readings > 5

    async with followed(numbers):
        numbers.write("none")
        await until(was_tried_often, "the file was tried several times")
        assert numbers.made.value == 1
        [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert record.getMessage().startswith("router: the former numbers stay in use: invalid literal")
        numbers.write("3")
        await numbers.becomes(3)


async def test_an_unusable_file_is_an_error_at_first(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("none")
    with pytest.raises(ValueError, match="invalid literal"):
        FromFiles([str(tmp_path / "number")], lambda: int((tmp_path / "number").read_text()), what="numbers")
