"""A real nginx in front of a router, as edges are set up for WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.foreign import find_program

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream router {{ {servers} keepalive {keeps}; }}
    server {{
        listen 127.0.0.1:{listen};
        location /internal {{ return 403; }}
        location / {{
            proxy_pass http://router;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_request_buffering {buffering};
        }}
    }}
}}
"""


@contextlib.asynccontextmanager
async def nginx_before(
    *addresses: tuple[str, int], folder: Path, buffers: bool, keeps: int = 1
) -> AsyncIterator[tuple[str, int]]:
    """Run nginx in front of one or more addresses; yield its own.

    Args:
        addresses: Of the routers.
        folder: For its files; of this test alone.
        buffers: Whether nginx reads a request's body before it passes on anything.
        keeps: How many connections to routers are kept, for whoever comes next.
    """
    program = find_program("nginx", "nginx-light")
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port = trial.getsockname()[1]
    # Without a limit of failures: nginx would leave a router that was restarted alone for 10 s, and with the next
    # router's restart have none.
    servers = " ".join(f"server {host}:{at} max_fails=0;" for host, at in addresses)
    settings = {"folder": folder, "servers": servers, "keeps": keeps, "listen": port}
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(**settings, buffering="on" if buffers else "off"))
    log = folder / "nginx.log"
    with log.open("wb") as errors:
        process = BoundProcess([program, "-p", folder, "-c", config], cwd=folder, output=errors)
    try:
        async with asyncio.timeout(20):
            while not await listens(port):
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        yield "127.0.0.1", port
    finally:
        process.kill()


async def listens(port: int) -> bool:
    """Return whether a server accepts connections on a port of this machine."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
