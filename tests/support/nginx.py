"""A real nginx in front of a router, as edges are set up for WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.foreign import find_program
from tests.support.programs import free_port

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
    port = free_port()
    # Without a limit of failures: nginx would leave a router that was restarted alone for 10 s, and with the next
    # router's restart have none.
    servers = " ".join(f"server {host}:{at} max_fails=0;" for host, at in addresses)
    settings = {"folder": folder, "servers": servers, "keeps": keeps, "listen": port}
    async with _running(folder, CONFIG.format(**settings, buffering="on" if buffers else "off"), port):
        yield "127.0.0.1", port


TLS_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    log_format tls "$ssl_protocol $ssl_session_reused";
    access_log {folder}/access.log tls;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 0;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols {version};
        location / {{ return 200 "{{}}"; }}
    }}
}}
"""


@contextlib.asynccontextmanager
async def nginx_with_tls(folder: Path, files: tuple[Path, Path], version: str) -> AsyncIterator[tuple[str, Path]]:
    """Run nginx as a replica that closes each connection; yield its url, and its log of versions and resumptions.

    Args:
        folder: For its files; of this test alone.
        files: Its certificate and key.
        version: The only version of TLS, as `ssl_protocols` has it.
    """
    port = free_port()
    certificate, key = files
    settings = {"folder": folder, "port": port, "certificate": certificate, "key": key, "version": version}
    async with _running(folder, TLS_CONFIG.format(**settings), port):
        yield f"https://127.0.0.1:{port}", folder / "access.log"


@contextlib.asynccontextmanager
async def _running(folder: Path, text: str, port: int) -> AsyncIterator[None]:
    """Run nginx with a configuration until it listens, and for the block."""
    program = find_program("nginx", "nginx-light")
    config = folder / "nginx.conf"
    config.write_text(text)
    log = folder / "nginx.log"
    with log.open("wb") as errors:
        process = BoundProcess([program, "-p", folder, "-c", config], cwd=folder, output=errors)
    try:
        async with asyncio.timeout(20):
            while not await listens(port):
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        yield
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
