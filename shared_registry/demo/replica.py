"""A mock replica, as a process: answers GET /health with 200, and everything else with 404.

Started by its path, with nothing but the standard library, so that it is up in a moment. Prints its port, in JSON, once
it listens. Its one argument is the port to take; 0 chooses one.
"""

from __future__ import annotations

import json
import random
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
"""Below those that systems give to outgoing connections: a probe that keeps calling a dead replica's port on loopback
would in the end get that port as its own, and be connected to itself."""


class Server(ThreadingTCPServer):
    """Serves every connection on a thread; its port can be taken again at once after a crash."""

    allow_reuse_address = True
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    """Answers on connections that are kept alive."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say that all is well."""
        is_known = self.path == "/health"
        body = json.dumps({"status": "ok" if is_known else "not found"}).encode()
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  named by http.server
        """Log nothing: whoever started this reads only the port."""


def listen(port: int) -> Server:
    """Return a server on that port, or on a free one where it is 0.

    Raises:
        OSError: The port is taken.
    """
    for candidate in [port] if port else random.sample(PORTS, 100):
        try:
            return Server((HOST, candidate), Handler)
        except OSError:
            if port:
                raise
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop}")


def main() -> None:
    """Serve until killed."""
    with listen(int(sys.argv[1])) as server:
        sys.stdout.write(json.dumps({"port": server.server_address[1]}) + "\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
