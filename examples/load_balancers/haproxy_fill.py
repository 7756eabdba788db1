"""Gives the replicas of a registry to the servers of a `server-template` of HAProxy, and takes removed ones away.

python haproxy_fill.py --socket /run/haproxy/admin.sock --state /var/lib/haproxy/server-state http://127.0.0.1:10001 http://127.0.0.1:10002

It reads `/status` of the first router that knows the replicas, every second, and needs nothing but Python. HAProxy's
agent checks then say which replicas take sessions. If this program ends, only new replicas stay unknown to HAProxy.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FREE = "!"  # no replica: routers answer nothing, and nothing changes
PATIENCE_SECONDS = 2.0
logger = logging.getLogger("haproxy_fill")
Address = tuple[str, int]


def status_of(admin_urls: list[str], pool: str) -> dict[str, Any]:
    """Return the status at the first router that knows the replicas now. One that has just started does not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reasons: list[str] = []
    for url in admin_urls:
        try:
            with opener.open(f"{url}/status", timeout=PATIENCE_SECONDS) as response:
                status: dict[str, Any] = json.load(response)
            status = status["pools"][pool] if pool else status
            if status["age_seconds"] is not None and not status["is_stale"] and not status["is_settling"]:
                return status
            reasons.append(f"{url} does not know the replicas now")
        except (OSError, ValueError, KeyError) as error:
            reasons.append(f"{url}: {error!r}")
    raise OSError("; ".join(reasons))


def replicas_of(admin_urls: list[str], pool: str) -> dict[Address, str]:
    """Return the url of each replica that is registered, by its IP address and port."""
    status = status_of(admin_urls, pool)
    found: dict[Address, str] = {}
    for replica in status["replicas"]:
        parts = urlsplit(replica["url"])
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        try:
            answers = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            logger.warning("%s: %s", replica["url"], error)
            continue
        found[min(str(answer[4][0]) for answer in answers), port] = replica["url"]
    return found


class HAProxy:
    """The servers of one backend, through HAProxy's runtime socket."""

    def __init__(self, path: str, backend: str) -> None:
        self.path = path
        self.backend = backend

    def run(self, command: str) -> str:
        """Run a runtime command; return its output."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect(self.path)
            client.sendall(f"{command}\n".encode())
            answer = b""
            while piece := client.recv(65_536):
                answer += piece
        return answer.decode()

    def process(self) -> str:
        """Return the id of the process that serves new clients: another one after a reload."""
        return next(line for line in self.run("show info").splitlines() if line.startswith("Pid:"))

    def keep(self, path: Path) -> None:
        """Write the state of all servers to the file with which the next process begins."""
        state = self.run("show servers state")
        if not path.exists() or path.read_text() != state:
            new = path.with_name(f"{path.name}.new")
            new.write_text(state)
            new.replace(path)

    def servers(self) -> dict[str, Address]:
        """Return the address of each server of the template, by its name."""
        lines = self.run(f"show servers state {self.backend}").splitlines()
        names = next(line for line in lines if line.startswith("#"))[1:].split()
        rows = [dict(zip(names, line.split(), strict=False)) for line in lines[2:] if line.strip()]
        return {row["srv_name"]: (row["srv_addr"], int(row["srv_port"])) for row in rows}

    def idle(self) -> set[str]:
        """Return the servers that are in maintenance and have no session."""
        rows = csv.DictReader(self.run(f"show stat {self.backend} 4 -1").removeprefix("# ").splitlines())
        return {row["svname"] for row in rows if row["status"].startswith("MAINT") and row["scur"] == "0"}

    def give(self, server: str, address: Address, prefix: str, url: str) -> None:
        """Give a replica to a server. Its next agent check says whether it takes sessions."""
        name = f"{self.backend}/{server}"
        self.run(f"set server {name} state maint")
        self.run(f"set server {name} addr {address[0]} port {address[1]}")
        self.run(f"set server {name} agent-send {prefix}{url}!")
        logger.info("%s is now %s", server, url)

    def take(self, server: str) -> None:
        """Give no further sessions to a server; those that it has go on."""
        self.run(f"set server {self.backend}/{server} agent-send {FREE}")
        self.run(f"set server {self.backend}/{server} state maint")


class Filler:
    """Keeps the servers of a backend in step with the registry.

    Attributes:
        given: The replica that each server has, as far as this program knows.
    """

    def __init__(self, haproxy: HAProxy, pool: str) -> None:
        self.haproxy = haproxy
        self.process = ""
        self.prefix = f"{pool}/" if pool else ""
        self.given: dict[str, Address] = {}

    def step(self, wanted: dict[Address, str]) -> None:
        """Give new replicas to idle servers, and take those that are gone. It does all of it again after a restart."""
        process, servers = self.haproxy.process(), self.haproxy.servers()
        if process != self.process:  # which has the addresses from its state file, and not what agent checks send
            self.process, self.given = process, {}
        self.given = {server: one for server, one in self.given.items() if servers.get(server) == one}
        for server in [server for server, one in self.given.items() if one not in wanted]:
            self.haproxy.take(server)
            del self.given[server]
        missing = wanted.keys() - set(self.given.values())
        if not missing:
            return
        idle = self.haproxy.idle()
        # A server that has the address already comes first: after a restart of this program nothing moves.
        held = {one: server for server, one in servers.items() if one in missing and server not in self.given}
        free = [server for server in servers if server in idle and server not in {*self.given, *held.values()}]
        for address in sorted(missing):
            server = held.get(address) or (free.pop(0) if free else "")
            if not server:
                logger.error("no server is left for %s: raise the number in server-template", wanted[address])
                return
            if address in held:
                self.haproxy.run(
                    f"set server {self.haproxy.backend}/{server} agent-send {self.prefix}{wanted[address]}!"
                )
            else:
                self.haproxy.give(server, address, self.prefix, wanted[address])
            self.given[server] = address


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("admin_urls", nargs="+", metavar="URL", help="admin addresses of routers")
    parser.add_argument("--socket", default="/run/haproxy/admin.sock", help="HAProxy's stats socket")
    parser.add_argument("--backend", default="replicas")
    parser.add_argument("--pool", default="", help="the pool, at routers with pools")
    parser.add_argument("--state", default="", help="HAProxy's server-state-file")
    parser.add_argument("--seconds", type=float, default=1.0, help="the pause between two rounds")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    filler = Filler(HAProxy(chosen.socket, chosen.backend), chosen.pool)
    while True:
        try:
            filler.step(replicas_of(chosen.admin_urls, chosen.pool))
            if chosen.state:
                filler.haproxy.keep(Path(chosen.state))
        except (OSError, ValueError, KeyError, StopIteration) as error:
            logger.warning("nothing changed: %r", error)
        time.sleep(chosen.seconds)


if __name__ == "__main__":
    main()
