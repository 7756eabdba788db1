"""Places a session with the installed package, on a server of its own: `release_smoke.py VERSION`."""

from __future__ import annotations

import asyncio
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import shared_registry
from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


async def _place(redis_url: str, url: str) -> None:
    config = RouterConfig(redis_url=redis_url, replicas=[ReplicaEndpoint(url, capacity=1)])
    async with SharedReplicaRegistry(config) as registry, await registry.acquire(timeout=20) as lease:
        _expect(url, lease.replica.url)


def _expect(wanted: str, found: str) -> None:
    if wanted != found:
        raise SystemExit(f"expected {wanted}, found {found}")


def main(version: str) -> None:
    """Fail unless this version is installed outside of any checkout, and works."""
    package = Path(shared_registry.__file__)
    if not package.is_relative_to(sys.prefix):
        raise SystemExit(f"{package} is not in {sys.prefix}")
    _expect(version, shared_registry.__version__)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as replica, EmbeddedServer() as server:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        asyncio.run(_place(server.url, f"http://127.0.0.1:{replica.server_port}"))
        command = [str(Path(sys.prefix) / "bin" / "shared-registry"), "--redis", server.url, "check"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        replica.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
