"""Containers of the Helm chart as processes on this machine, with files and addresses of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.command import ROOT, environment
from tests.support.helm import Objects, named

SECRETS = "/run/secrets/shared-registry"


class Pod:
    """The pod of a workload, of which tests run one container or another.

    Attributes:
        folder: Has what the pod mounts: `config`, `secrets`, `join`.
    """

    def __init__(self, folder: Path, objects: Objects, kind: str, *, redis_url: str, ip: str = "127.0.0.1") -> None:
        """Write the files of the ConfigMap."""
        self.folder = folder
        workload = named(objects, kind)
        self._spec = workload["spec"]["template"]["spec"]
        self._fields = {"status.podIP": ip, "metadata.name": f"{workload['metadata']['name']}-0"}
        self._redis_url = redis_url
        for name in ("bin", "config", "secrets", "join"):
            (folder / name).mkdir()
        program = folder / "bin" / "shared-registry"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shared_registry "$@"\n')
        program.chmod(0o755)
        for name, text in named(objects, "ConfigMap")["data"].items():
            (folder / "config" / name).write_text(self._here(text))

    def _here(self, text: str) -> str:
        folders = {"/etc/shared-registry": "config", SECRETS: "secrets", "/run/join": "join"}
        for there, name in folders.items():
            text = text.replace(there, str(self.folder / name))
        return text.replace("0.0.0.0", "127.0.0.1")

    def container(self, name: str) -> dict[str, Any]:
        """Return a container."""
        [found] = [one for one in self._spec["containers"] if one["name"] == name]
        return dict(found)

    def _environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        for one in container.get("env", ()):
            source = one.get("valueFrom", {})
            if "fieldRef" in source:
                found[one["name"]] = self._fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                found[one["name"]] = self._redis_url
            else:
                found[one["name"]] = one["value"]
        return found

    @contextlib.asynccontextmanager
    async def running(
        self, name: str, command: Sequence[str] | None = None, **variables: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a container's command, or another one in it, until the block ends. Kill what is left of it then."""
        container = self.container(name)
        own = self._environment(container)
        words = [*container.get("command", ()), *container.get("args", ())] if command is None else command
        expanded = [re.sub(r"\$\((\w+)\)", lambda found: own[found[1]], self._here(word)) for word in words]
        variables = {**own, **variables, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *expanded, cwd=ROOT, env=environment(**variables), stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()

    def log(self, name: str) -> str:
        """Return what a container has written to standard error."""
        return (self.folder / f"{name}.log").read_text()
