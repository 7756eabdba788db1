"""A headless Chromium, driven by the WebDriver protocol of `chromedriver`."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.foreign import find_program
from tests.support.until import until

DRIVER_STARTS = 10
CHROMIUM_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = 50.0


class Browser:
    """One window."""

    def __init__(self, http: httpx.AsyncClient, session: str) -> None:
        self._http = http
        self._session = session

    async def call(self, method: str, path: str, **body: Any) -> Any:
        """Send one command of the WebDriver protocol, and return its value."""
        url = f"/session/{self._session}{path}"
        answer = await self._http.request(method, url, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    async def open(self, url: str) -> None:
        await self.call("POST", "/url", url=url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return await self.call("POST", "/execute/sync", script=script, args=list(arguments))

    async def text(self, selector: str) -> str:
        return str(await self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    async def devtools(self, command: str, **parameters: Any) -> Any:
        return await self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    async def resize(self, width: int, height: int, *, is_dark: bool = False) -> None:
        await self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        return base64.b64decode(await self.call("GET", "/screenshot"))

    async def problems(self) -> list[str]:
        """Return what the console has shown of errors and warnings since the last call."""
        entries = await self.call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """Open a window of a Chromium of its own for the block."""
    process, port = await _start_driver(folder)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=SECONDS) as http:
            chrome = {
                "binary": find_program("chromium"),
                "args": [*CHROMIUM_ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
            }
            wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
            answer = await http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            assert answer.status_code == 200, answer.text
            session = answer.json()["value"]["sessionId"]
            try:
                yield Browser(http, session)
            finally:
                await http.delete(f"/session/{session}")
    finally:
        _kill(process)


async def _start_driver(folder: Path) -> tuple[BoundProcess, int]:
    """Start a chromedriver and return it with its port.

    It takes any free port of IPv6 and then wants the same one of IPv4. If a connection has that one, it exits, so
    another is started.
    """
    log = folder / "chromedriver.log"
    for _ in range(DRIVER_STARTS):
        with log.open("wb") as output:
            process = BoundProcess([find_program("chromedriver"), "--port=0"], cwd=folder, output=output)
        port = 0
        try:
            port = await _driver_port(process, log)
        finally:
            if not port:
                _kill(process)
        if port:
            return process, port
    pytest.fail(f"chromedriver did not listen in {DRIVER_STARTS} starts; the last one said: {log.read_text()}")


async def _driver_port(process: BoundProcess, log: Path) -> int:
    """Return the port that chromedriver listens on, or 0 if it has exited."""

    def port() -> int:
        found = re.search(r"started successfully on port (\d+)", log.read_text())
        return int(found[1]) if found else 0

    await until(lambda: port() or process.poll() is not None, "chromedriver listens or ends")
    return port()


def _kill(process: BoundProcess) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group of helpers
    process.kill()
