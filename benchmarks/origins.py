"""Origins whose probes cost next to nothing: nginx, on every address of 127.0.0.0/8. Linux only."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import find_program, free_port, running
from benchmarks.namespace import local_urls
from tests.support.certificates import Authority

NAME = "replica.test"
"""The name in the certificate of all origins."""
CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 16384; }}
http {{
    access_log off; client_body_temp_path {folder}/body;
    keepalive_requests 1000000; keepalive_timeout {idle_seconds};
    server {{
        listen 0.0.0.0:{port} backlog=4096{tls};
        location / {{ default_type application/json; return 200 '{{"status": "ok"}}'; }}
    }}
    server {{ listen 127.0.0.1:{counting}; location / {{ stub_status; }} }}
}}
"""
WITH_TLS = " ssl; ssl_certificate {certificate}; ssl_certificate_key {key}"
IDLE_SECONDS = 75


@dataclass(frozen=True)
class Origins:
    """Origins on this machine.

    Attributes:
        urls: Their urls.
        authority: The file of the authority that has signed their certificate; `None` without TLS.
    """

    urls: list[str]
    authority: Path | None
    _counting: int

    async def requests(self) -> int:
        """Return how many requests have come to all of them together."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._counting)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        found = re.search(rb"\n \d+ \d+ (\d+) ", await reader.read())
        writer.close()
        if found is None:
            raise RuntimeError("nginx does not tell how many requests it has had")
        return int(found[1])


@contextlib.asynccontextmanager
async def nginx_origins(folder: Path, count: int, *, tls: bool = False, keeps: bool = True) -> AsyncIterator[Origins]:
    """Serve that many origins.

    Args:
        folder: For files; of these origins alone.
        count: How many.
        tls: Whether they are https origins.
        keeps: Whether they keep connections open.
    """
    port, counting, authority, listen = free_port(), free_port(), None, ""
    urls = local_urls(count, port)
    if tls:
        signer = Authority(folder)
        certificate, key = signer.sign("replica", f"DNS:{NAME}")
        authority, listen = signer.ca, WITH_TLS.format(certificate=certificate, key=key)
        urls = [url.replace("http:", "https:") for url in urls]
    seconds = IDLE_SECONDS if keeps else 0
    text = CONFIG.format(folder=folder, port=port, counting=counting, tls=listen, idle_seconds=seconds)
    nginx = [find_program("nginx"), "-p", str(folder), "-c"]
    async with running(folder, nginx, text, counting):
        yield Origins(urls, authority, counting)
