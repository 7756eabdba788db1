"""How to read a registry with redis-cli: the program's options for a Redis url, and the useful commands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared_registry.store.keys import Keys
from shared_registry.store.redis_url import RedisAddress, RedisKind, parse_redis_url

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
        KeyCommand("replicas that operators removed, and when (ms)", ("ZRANGE", keys.removed, "0", "-1", "WITHSCORES")),
        KeyCommand("which replica has each name", ("HGETALL", keys.names)),
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
    address = parse_redis_url(url)
    notes: list[str] = []
    arguments = ["redis-cli", *_where(address, notes), *_tls(address)]
    if address.username and address.password:
        arguments += ["--user", address.username]
    if address.username or address.password:  # some people write the password in the place of the user
        notes.append("put the password into REDISCLI_AUTH")
    return arguments, "; ".join(notes)


def _where(address: RedisAddress, notes: list[str]) -> list[str]:
    database = ["-n", str(address.database)]
    match address.kind:
        case RedisKind.SOCKET:
            return ["-s", address.path, *database]
        case RedisKind.CLUSTER:
            return ["-c", *_host(address)]
        case RedisKind.SENTINEL:
            asked = " ".join(["redis-cli", *_host(address), *_tls(address)])
            notes.append(f"HOST and PORT of the master: {asked} SENTINEL get-master-addr-by-name {address.master}")
            return ["-h", "HOST", "-p", "PORT", *database]
        case RedisKind.SERVER:
            return [*_host(address), *database]


def _host(address: RedisAddress) -> list[str]:
    host, port = address.hosts[0]
    return ["-h", host, "-p", str(port)]


def _tls(address: RedisAddress) -> list[str]:
    if not address.is_tls:
        return []
    files = {"--cacert": "ssl_ca_certs", "--cacertdir": "ssl_ca_path", "--cert": "ssl_certfile", "--key": "ssl_keyfile"}
    given = [text for option, name in files.items() if name in address.tls for text in (option, address.tls[name])]
    return ["--tls", *given, *(["--insecure"] if address.tls.get("ssl_cert_reqs") == "none" else [])]
