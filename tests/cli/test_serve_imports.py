"""What `serve` imports, and when: what a router never needs would stay in its memory."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from shared_registry.cli import serving
from shared_registry.cli.app import app
from shared_registry.cli.global_options import GlobalOptions
from shared_registry.cli.short_cuts import short_cut
from shared_registry.embedded import EmbeddedServer
from tests.support.until import wait_for

ROOT = Path(__file__).parents[2]
ANSWERS = {"prometheus_client", "starlette", "uvicorn"}
UNUSED = ANSWERS | {"click", "multiprocessing", "opentelemetry.metrics", "typer"}
METADATA = {"email", "importlib.metadata"}
"""What the usual redis-py does not need; earlier ones do."""
ANY_PORTS = {"SHARED_REGISTRY_PORT": "0", "SHARED_REGISTRY_ADMIN_PORT": "0"}
LISTING = """
import atexit, sys
atexit.register(lambda: print("modules:", *[name for name in sys.modules if sys.modules[name]], file=sys.stderr))
{before}
from shared_registry.__main__ import main
main()
"""


class Serving:
    """A router in a process, and the file with its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def admin_url(self) -> str:
        found = re.search(r"admin: serving on (http\S+)", self.log)
        assert found is not None
        return found[1]

    def modules_at_its_end(self) -> set[str]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        return set(self.log.rpartition("modules:")[2].split())


Serve = Callable[..., Serving]


@pytest.fixture
def serve(server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Serve]:
    """Start a router by words of the command line; run some Python before it."""
    log, started = tmp_path / "log", list[Serving]()

    def start(*words: str, before: str = "") -> Serving:
        command = [sys.executable, "-c", LISTING.format(before=before), "serve", "--redis", server.url, *words]
        with log.open("wb") as output:
            process = subprocess.Popen([*command, "-n", namespace], cwd=ROOT, env=ANY_PORTS, stderr=output)
        started.append(Serving(process, log))
        wait_for(lambda: "has joined" in started[-1].log, "the router has joined")
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()


def test_a_router_imports_nothing_unused(serve: Serve) -> None:
    unused = UNUSED | (METADATA if redis.__version__ >= "8" else set())
    assert serve().modules_at_its_end() & unused == set()


def test_the_first_client_of_the_admin_address_loads_it(serve: Serve) -> None:
    router = serve()
    assert httpx.get(f"{router.admin_url}/metrics", trust_env=False, timeout=30).status_code == 200
    assert httpx.get(f"{router.admin_url}/status", trust_env=False, timeout=30).status_code == 200
    assert router.modules_at_its_end() >= ANSWERS


def test_an_admin_address_that_cannot_be_imported_ends_no_router(serve: Serve) -> None:
    router = serve(before="sys.modules['uvicorn.protocols.http.httptools_impl'] = None")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{router.admin_url}/metrics", trust_env=False, timeout=30)
    wait_for(lambda: "admin: cannot be imported" in router.log, "the reason")
    assert router.process.poll() is None


@pytest.mark.parametrize(
    "words",
    [
        ["serve"],
        ["--json", "serve", "--config", "router.yaml"],
        ["serve", "-c", "router.yaml", "--host=::1", "-p", "0", "--workers=2"],
        ["--redis", "redis://a", "serve", "--wait-redis", "1.5", "--never-lead", "--json"],
        ["-n", "one", "serve", "--port", "9000", "-n", "two", "--port", "9001"],
    ],
    ids=str,
)
def test_a_short_cut_reads_words_as_typer_does(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []

    def note(options: GlobalOptions, asked: serving.Serve) -> int:
        found.append((options.redis, options.namespace, options.as_json, asked))
        return 0

    monkeypatch.setattr(serving, "run_router", note)
    call = short_cut(words)
    assert call is not None
    call.run()
    app(words, standalone_mode=False)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "words",
    [
        ["--never-lead", "serve"],
        ["--port", "9000", "serve"],
        ["serve", "--port", "many"],
        ["serve", "--port=-1"],
        ["serve", "--wait-redis", "0"],
        ["serve", "--wait-redis", "nan"],
        ["serve", "--config"],
        ["serve", "--wide"],
        ["serve", "router.yaml"],
        ["serve", "--help"],
    ],
    ids=str,
)
def test_other_words_of_serve_are_left_to_typer(words: list[str]) -> None:
    assert short_cut(words) is None
