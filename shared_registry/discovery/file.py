"""A YAML file with replicas, which is read again when it changes.

The file is a list of replicas as the setting `replicas` is, or a mapping with that list as `replicas`. A file that is
missing, empty, not YAML, or has a wrong entry changes nothing. A file that has just changed is read at the next check
if it has not changed again, so that one that is being written is not read by halves; better replace it in one step.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from pathlib import Path

import yaml

from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.aio.from_files import stamp_of
from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.config.draft import read_endpoints
from shared_registry.config.problems import shorten
from shared_registry.config.rules import check_replicas
from shared_registry.config.yaml_syntax import YamlSource
from shared_registry.discovery.answer import Found, SourceAnswer
from shared_registry.errors import ConfigError

LONGEST_INTERVAL_SECONDS = 1.0
"""The file is checked at least so often: that is one call of the operating system."""
READ_SECONDS = 10.0
"""How long a file system may take."""
MOST_BYTES = 16 * 1024 * 1024
_BLOCK = "replicas"
_TEXTS = frozenset(
    {
        "replicas[]",
        "replicas[].url",
        "replicas[].name",
        "replicas[].labels.*",
        "replicas[].labels{}",
        "replicas[].health_check_path",
    }
)


class FileSource:
    """A YAML file."""

    def __init__(self, rule: DiscoveryRule) -> None:
        self._path = rule.path
        self._interval_seconds = min(rule.interval_seconds, LONGEST_INTERVAL_SECONDS)
        self._answer: SourceAnswer | None = None
        self._read_stamp: object = None
        self._seen_stamp: object = None

    async def answers(self) -> AsyncGenerator[SourceAnswer, None]:
        """See `DiscoverySource`."""
        check: asyncio.Task[SourceAnswer] | None = None
        try:
            while True:
                check = check or asyncio.create_task(self._check())
                await asyncio.wait((check,), timeout=READ_SECONDS)
                if check.done():
                    answer, check = check.result(), None
                    yield answer
                else:  # no second thread hangs beside the first
                    yield SourceAnswer(failure=f"{self._path} cannot be read: the file system does not respond")
                await asyncio.sleep(self._interval_seconds)
        finally:
            if check is not None:
                check.cancel()

    async def _check(self) -> SourceAnswer:
        """Return what the file says; read it if that is not known, or has changed.

        What was read may be half of a file. So while the file changes, or has changed since, nothing has vanished.
        """
        stamp = await call_in_daemon_thread(lambda: stamp_of(self._path))
        is_settled = stamp == self._seen_stamp
        self._seen_stamp = stamp
        if self._answer is None or (is_settled and stamp != self._read_stamp):
            try:
                self._answer, self._read_stamp = await call_in_daemon_thread(self._read), stamp
            except OSError as error:  # the next check tries again, also if the file does not change
                failure = f"{self._path} cannot be read: {error.strerror or error}"
                self._answer, self._read_stamp = SourceAnswer(failure=failure), None
        return dataclasses.replace(self._answer, is_partial=not is_settled)

    def _read(self) -> SourceAnswer:
        """Return what the file says now.

        Raises:
            OSError: It cannot be read.
        """
        try:
            with Path(self._path).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                return SourceAnswer(failure=f"{self._path} has more than {MOST_BYTES} bytes")
            return SourceAnswer(tuple(Found(endpoint) for endpoint in check_replicas(_endpoints(content))))
        except (ConfigError, yaml.YAMLError, ValueError, RecursionError) as error:
            text = " ".join(str(error).split())
            return SourceAnswer(failure=f"{self._path} is not usable: {text}")


def _endpoints(content: bytes) -> object:
    """Return the endpoints of a file.

    Raises:
        ConfigError: The file has no list of replicas, or its author cannot have meant what it says.
        yaml.YAMLError: The file is not YAML.
    """
    document = YamlSource(content)
    surprises = [*document.repeated_keys(), *document.changed_values(_BLOCK, _TEXTS)]
    if surprises:
        raise ConfigError("; ".join(f"line {one.line}: {one.path} {one.text}" for one in surprises[:3]))
    value = document.value()
    if isinstance(value, dict):
        if unknown := next((key for key in value if key != _BLOCK), None):
            raise ConfigError(f"unknown key {shorten(unknown)}; write a list of replicas, or replicas: with that list")
        value = value.get(_BLOCK)
    if not isinstance(value, list):
        raise ConfigError(f"there is no list of replicas, but {shorten(value)}; write [] if there is none")
    problems: list[str] = []
    endpoints = read_endpoints(value, lambda where, key: problems.append(f"{where}: unknown key {shorten(key)}"))
    if problems:
        raise ConfigError("; ".join(problems[:3]))
    return endpoints
