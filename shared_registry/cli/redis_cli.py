"""How to read a registry with redis-cli: the program's options for a Redis url, and the useful commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from shared_registry.store.keys import Keys

EVENTS_SHOWN = "10"
FIRST_WAITERS = ("0", "9", "WITHSCORES")


@dataclass(frozen=True, slots=True)
class KeyCommand:
    """One command that only reads.

    Attributes:
        shows: A description of its reply.
        arguments: The command with its arguments.
        each: `replica` or `router` if the command is about one of them: its key ends in `<url>` or `<key>`, for which
            `of()` puts the replica's url or the router's key. Otherwise empty.
    """

    shows: str
    arguments: tuple[str, ...]
    each: str = ""

    def of(self, name: str) -> tuple[str, ...]:
        """Return the command for one replica or router."""
        return tuple(re.sub(r"<(url|key)>$", lambda _: name, argument) for argument in self.arguments)


def key_commands(keys: Keys) -> list[KeyCommand]:
    """Return the commands that show a namespace."""
    return [
        KeyCommand("the history: schema, history_id, revision (id of the last event), epoch", ("HGETALL", keys.meta)),
        KeyCommand("the replicas, lowest order first", ("ZRANGE", keys.replicas, "0", "-1", "WITHSCORES")),
        KeyCommand(
            "all of one replica: spec, health, admin state, load", ("HGETALL", keys.replica("<url>")), "replica"
        ),
        KeyCommand(
            "primaries that may take a session now, by in_flight / weight",
            ("ZRANGE", keys.ready_primary, "0", "-1", "WITHSCORES"),
        ),
        KeyCommand(
            "secondaries that may take a session now, by in_flight / weight",
            ("ZRANGE", keys.ready_secondary, "0", "-1", "WITHSCORES"),
        ),
        KeyCommand("replicas that are healthy and active, and full", ("SMEMBERS", keys.full)),
        KeyCommand(
            "unhealthy primaries that may take a session in a panic, by in_flight / weight",
            ("ZRANGE", keys.spare_primary, "0", "-1", "WITHSCORES"),
        ),
        KeyCommand(
            "unhealthy secondaries that may take a session in a panic, by in_flight / weight",
            ("ZRANGE", keys.spare_secondary, "0", "-1", "WITHSCORES"),
        ),
        KeyCommand(
            "when active replicas that are not healthy last answered a probe (ms)",
            ("ZRANGE", keys.spare_answered, "0", "-1", "WITHSCORES"),
        ),
        KeyCommand(
            "replicas removed within seven days, and when (ms)", ("ZRANGE", keys.removed, "0", "-1", "WITHSCORES")
        ),
        KeyCommand("the leader, its epoch, and the time of its election", ("HGETALL", keys.leader)),
        KeyCommand("milliseconds until the leader's time ends unless renewed; -2: no leader", ("PTTL", keys.leader)),
        KeyCommand("the routers, and when each expires (ms)", ("ZRANGE", keys.routers, "0", "-1", "WITHSCORES")),
        KeyCommand("the record of one router", ("HGETALL", keys.router("<key>")), "router"),
        KeyCommand("the leases that one router holds: id, replica", ("HGETALL", keys.leases("<key>")), "router"),
        KeyCommand(
            "the first waiters in the queue, and about when each joined it (ms)", ("ZRANGE", keys.queue, *FIRST_WAITERS)
        ),
        KeyCommand("the latest events, newest first", ("XREVRANGE", keys.events, "+", "-", "COUNT", EVENTS_SHOWN)),
    ]


def redis_cli(url: str) -> tuple[list[str], str]:
    """Return redis-cli with its options for a checked url, and a note for the user, which may be empty.

    The password is left out; the note then says where to put it.
    """
    parts = urlsplit(url)
    user_part, _, hosts = parts.netloc.rpartition("@")
    user, _, password = user_part.partition(":")
    notes: list[str] = []
    options = {"redis+sentinel": _sentinel, "redis+cluster": _cluster, "unix": _socket}.get(parts.scheme, _server)
    arguments = ["redis-cli", *options(url, hosts, notes.append)]
    if parts.scheme == "rediss":
        arguments.append("--tls")
    if user and password:
        arguments += ["--user", unquote(user)]
    if user_part or "password=" in (parts.query or ""):
        notes.append("put the password into REDISCLI_AUTH")
    return arguments, "; ".join(notes)


Note = Callable[[str], None]


def _server(url: str, hosts: str, note: Note) -> list[str]:  # noqa: ARG001
    parts = urlsplit(url)
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", ["0"])[0]
    return [*_host(f"{parts.scheme}://{hosts}", 6379), "-n", database]


def _socket(url: str, hosts: str, note: Note) -> list[str]:  # noqa: ARG001
    parts = urlsplit(url)
    return ["-s", parts.path, "-n", parse_qs(parts.query).get("db", ["0"])[0]]


def _cluster(url: str, hosts: str, note: Note) -> list[str]:  # noqa: ARG001
    return ["-c", *_host(f"redis://{hosts.split(',', maxsplit=1)[0]}", 6379)]


def _sentinel(url: str, hosts: str, note: Note) -> list[str]:
    master, _, database = urlsplit(url).path.strip("/").partition("/")
    asked = " ".join(["redis-cli", *_host(f"redis://{hosts.split(',', maxsplit=1)[0]}", 26379)])
    note(f"HOST and PORT of the master: {asked} SENTINEL get-master-addr-by-name {master}")
    return ["-h", "HOST", "-p", "PORT", "-n", database or "0"]


def _host(url: str, default_port: int) -> list[str]:
    parts = urlsplit(url)
    return ["-h", parts.hostname or "127.0.0.1", "-p", str(parts.port or default_port)]
