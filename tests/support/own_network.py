"""A network of this process's own, for the length of a program: no traffic leaves it.

    python -m tests.support.own_network <situation>

sets one up, probes some addresses, and prints as JSON what became of each, by asyncio and by uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import uvloop

from shared_registry.probing import HttpProber, guarded

ROOT = Path(__file__).parents[2]
LINK = ["link add name near type veth peer name far", "link set near up", "link set far up"]
SITUATIONS: dict[str, list[str]] = {
    "nothing": [],
    "loopback": ["link set lo up"],
    "subnet": ["link set lo up", *LINK, "addr add 10.9.0.2/24 dev near"],
    "default route": ["link set lo up", *LINK, "addr add 10.9.0.2/24 dev near", "route add default via 10.9.0.1"],
    "link lost": [
        "link set lo up",
        *LINK,
        "addr add 10.9.0.2/24 dev near",
        "route add default via 10.9.0.1",
        "link set near down",
    ],
    "IPv6 only": ["link set lo up", *LINK, "-6 addr add fd00::2/64 dev near nodad", "-6 route add default via fd00::1"],
    "IPv6 subnet": ["link set lo up", *LINK, "-6 addr add fd00::2/64 dev near nodad"],
    "IPv6 off": ["link set lo up", *LINK, "addr add 10.9.0.2/24 dev near", "route add default via 10.9.0.1"],
    "out of ports": ["link set lo up"],
    "unreachable": ["link set lo up", "route add unreachable default"],
    "another table": [
        "link set lo up",
        *LINK,
        "addr add 10.9.0.2/24 dev near noprefixroute",
        "route add 10.9.0.0/24 dev near table 7",
        "route add default via 10.9.0.1 table 7",
        "rule add table 7",
    ],
}


def run(situation: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what became of each address there, by either loop: `own` and why, or the failure."""
    command = ["unshare", "-rn", sys.executable, "-m", "tests.support.own_network", situation]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=40)
    by_asyncio, by_uvloop = json.loads(done.stdout)
    return by_asyncio, by_uvloop


def is_possible() -> bool:
    """Return whether this machine allows it."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    command = ["unshare", "-rn", "sh", "-c", "ip link add name near type veth peer name far"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def probe(urls: list[str]) -> dict[str, str]:
    async with HttpProber() as prober:
        outcomes = await asyncio.gather(*(guarded(prober, url, 0.5) for url in urls))
    told = [f"own: {outcome.trouble}" if outcome.trouble else str(outcome.error) for outcome in outcomes]
    return dict(zip(urls, told, strict=True))


@contextlib.contextmanager
def no_port_left() -> Iterator[list[str]]:
    """Listen, take all local ports to there, and yield the urls of it; the last one has ports left."""
    with contextlib.ExitStack() as stack:
        found = []
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.2")):
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
            found.append(listener.getsockname()[:2])
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("61000 61003")
        for address in found[:2]:
            with contextlib.suppress(OSError):
                while True:
                    stack.enter_context(socket.create_connection(address, 1))
        (host, port), (_, far_port), (free, free_port) = found
        yield [
            f"http://{host}:{port}",
            f"http://[::1]:{far_port}",
            f"http://localhost:{port}",
            f"http://{free}:{free_port}",
        ]


def both(urls: list[str]) -> list[dict[str, str]]:
    return [run_loop(probe(urls)) for run_loop in (asyncio.run, uvloop.run)]


def main(situation: str) -> None:
    for words in SITUATIONS[situation]:
        subprocess.run(["ip", *words.split()], check=True)
    if situation == "IPv6 off":
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    if situation == "out of ports":
        with no_port_left() as urls:
            found = [dict(zip(("IPv4", "IPv6", "name", "another"), one.values(), strict=True)) for one in both(urls)]
    else:
        found = both([f"http://{host}:9" for host in ("127.0.0.1", "10.1.2.3", "[::1]", "[2001:db8::7]")])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
