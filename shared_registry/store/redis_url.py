"""Reads Redis urls, and masks their secrets for display. Opens no connection. The accepted forms follow.

redis://[user:password@]host[:port][/db][?option=value&...]   one server; rediss:// the same over TLS
unix://[user:password@]/path/to/socket[?db=0]                 one server on this machine
redis+sentinel://[...@]h1[:port],h2[:port]/master[/db]        the master that these sentinels name; rediss+sentinel://
redis+cluster://[...@]h1[:port],h2[:port]                     the cluster that these nodes belong to; rediss+cluster://

`valkey://` and `valkeys://` mean the same as `redis://` and `rediss://`. The options have redis-py's names.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from shared_registry.errors import ConfigError


class RedisKind(enum.Enum):
    """What a url names."""

    SERVER = "server"
    SOCKET = "socket"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The parts of a url.

    Attributes:
        kind: What the url names.
        is_tls: Connections use TLS, those to sentinels as well.
        hosts: The servers, sentinels or cluster nodes; empty for a socket.
        path: The path of the socket; otherwise empty.
        master: The name of the master that the sentinels watch; otherwise empty.
        database: The number of the database.
        username: The user; `None` for the default user.
        password: The user's password; `None` for none.
        sentinel_username: The user at the sentinels.
        sentinel_password: The password at the sentinels; `None` if they ask for none.
        tls: redis-py's options of a TLS connection, by name.
    """

    kind: RedisKind
    is_tls: bool = False
    hosts: Sequence[tuple[str, int]] = ()
    path: str = ""
    master: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False)


_SCHEMES = {
    "redis": (RedisKind.SERVER, False),
    "rediss": (RedisKind.SERVER, True),
    "valkey": (RedisKind.SERVER, False),
    "valkeys": (RedisKind.SERVER, True),
    "unix": (RedisKind.SOCKET, False),
    "redis+sentinel": (RedisKind.SENTINEL, False),
    "rediss+sentinel": (RedisKind.SENTINEL, True),
    "redis+cluster": (RedisKind.CLUSTER, False),
    "rediss+cluster": (RedisKind.CLUSTER, True),
}
REDIS_SCHEMES = tuple(_SCHEMES)
_SENTINEL_PORT, _PORT = 26379, 6379
_TLS_TEXTS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password")
_TLS_CHOICES: Mapping[str, Mapping[str, str | bool]] = {
    "ssl_cert_reqs": {"required": "required", "optional": "optional", "none": "none"},
    "ssl_check_hostname": {"true": True, "false": False},
}
_CREDENTIALS = ("username", "password")
_OPTIONS = {
    RedisKind.SERVER: (*_CREDENTIALS, "db"),
    RedisKind.SOCKET: (*_CREDENTIALS, "db"),
    RedisKind.SENTINEL: (*_CREDENTIALS, "db", "sentinel_username", "sentinel_password"),
    RedisKind.CLUSTER: _CREDENTIALS,
}
_SETTINGS = {
    "socket_timeout": "redis_timeout_seconds",
    "socket_connect_timeout": "redis_timeout_seconds",
    "timeout": "redis_timeout_seconds",
}
"""Options of redis-py in whose place a setting is."""
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^/?#:@]*)(?P<password>:[^/?#]*)?@)?(?P<hosts>[^/?#@]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::(?P<port>[0-9]{1,5}))?")
_SECRET_OPTION = re.compile("pass|secret|token", re.IGNORECASE)
_PATHS = {
    RedisKind.SERVER: (r"/?|/[0-9]+", "the path is the database number, as in redis://host:6379/0"),
    RedisKind.SOCKET: (r"/.*[^/]", "give the socket's absolute path, as in unix:///run/redis.sock?db=0"),
    RedisKind.SENTINEL: (
        r"/[^/]+(?:/|/[0-9]+)?",
        "name the master that the sentinels watch, as in redis+sentinel://h1:26379,h2:26379/mymaster/0",
    ),
    RedisKind.CLUSTER: (
        "/?|/0",
        "a cluster has database 0 only; drop the path, as in redis+cluster://h1:6379,h2:6379",
    ),
}


def check_redis_url(url: object, field: str = "redis_url") -> str:
    """Return the url if it has one of the forms above. No connection is made.

    Raises:
        ConfigError: The url has another form. The message never shows a part of it that could be a secret.
    """
    parse_redis_url(url, field)
    return str(url)


def parse_redis_url(url: object, field: str = "redis_url") -> RedisAddress:
    """Return the parts of a url that has one of the forms above. No connection is made, and no file is read.

    Raises:
        ConfigError: The url has another form. The message never shows a part of it that could be a secret.
    """
    if not isinstance(url, str):
        raise ConfigError(f"{field}: must be text such as redis://127.0.0.1:6379/0, got {type(url).__name__}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ConfigError(f"{field}: contains white space or control characters; remove or percent-encode them")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigError(f"{field}: has no scheme; write redis://host:6379/0")
    if scheme not in _SCHEMES:
        raise ConfigError(f"{field}: its scheme is not one of {', '.join(REDIS_SCHEMES)}; write redis://host:6379/0")
    match = _match(url)
    if match is None:
        raise ConfigError(
            f"{field}: not a {scheme}:// url; percent-encode special characters ('/' in a password is %2F, '@' is %40)"
        )
    _check_hosts(scheme, match["hosts"], field)
    kind, is_tls = _SCHEMES[scheme]
    pattern, remedy = _PATHS[kind]
    if not re.fullmatch(pattern, match["path"] or ""):
        raise ConfigError(f"{field}: {mask_redis_url(url)!r} has a wrong path; {remedy}")
    options = _options(scheme, match["query"] or "", field)
    username, password = _credentials(match, options, field)
    master, database = _master_and_database(kind, match["path"] or "", options, field)
    default_port = _SENTINEL_PORT if kind is RedisKind.SENTINEL else _PORT
    return RedisAddress(
        kind=kind,
        is_tls=is_tls,
        hosts=tuple(_host(part, default_port) for part in match["hosts"].split(",") if part),
        path=unquote(match["path"]) if kind is RedisKind.SOCKET else "",
        master=master,
        database=database,
        username=username,
        password=password,
        sentinel_username=options.get("sentinel_username") or None,
        sentinel_password=options.get("sentinel_password") or None,
        tls=_tls(options, field),
    )


def mask_redis_url(url: str) -> str:
    """Return the url for display, with passwords and other secrets replaced by `***`.

    A url of an unknown form may contain a secret anywhere. Then only its scheme is shown, if that is known.
    """
    match = _match(url)
    scheme = url.partition("://")[0]
    if match is None or not _are_hosts(scheme, match["hosts"]):
        return f"{scheme}://***" if scheme in REDIS_SCHEMES else "***"
    # A user without a password is masked too, because some people write the password in its place.
    user = "***" if match["password"] is None else f"{match['user']}:***"
    credentials = "" if match["user"] is None else f"{user}@"
    query = "" if match["query"] is None else "?" + "&".join(map(_mask_option, match["query"].split("&")))
    return f"{scheme}://{credentials}{match['hosts']}{match['path'] or ''}{query}"


def _match(url: str) -> re.Match[str] | None:
    """Match the parts of a url. Return `None` if another '@' makes the end of the credentials ambiguous."""
    match = _URL.fullmatch(url)
    if match is None or match["scheme"] not in REDIS_SCHEMES:
        return None
    return None if "@" in (match["path"] or "") + (match["query"] or "") else match


def _mask_option(option: str) -> str:
    name, _, value = option.partition("=")
    return f"{name}=***" if value and _SECRET_OPTION.search(unquote_plus(name)) else option


def _check_hosts(scheme: str, hosts: str, field: str) -> None:
    if _are_hosts(scheme, hosts):
        return
    if scheme == "unix":
        raise ConfigError(f"{field}: a unix:// url names no host; give an absolute path, as in unix:///run/redis.sock")
    several = " (several with commas between)" if "+" in scheme else ""
    raise ConfigError(f"{field}: names no valid host:port{several}; write {scheme}://host:6379, ports 1 to 65535")


def _are_hosts(scheme: str, hosts: str) -> bool:
    if scheme == "unix":
        return not hosts
    matches = [_HOST.fullmatch(host) for host in (hosts.split(",") if "+" in scheme else [hosts])]
    return all(match and 1 <= int(match["port"] or 6379) <= 65535 for match in matches)


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or default_port


def _options(scheme: str, query: str, field: str) -> dict[str, str]:
    """Return the options of a url, each of which must be known for its scheme and given once."""
    kind, is_tls = _SCHEMES[scheme]
    tls = (*_TLS_TEXTS, *_TLS_CHOICES)
    known = (*_OPTIONS[kind], *(tls if is_tls else ()))
    found: dict[str, str] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise ConfigError(f"{field}: the option {name} is given twice; drop one of them")
        if name not in known:
            raise ConfigError(f"{field}: {_unknown(name if text else '', scheme, known, tls)}")
        found[name] = text
    return found


def _unknown(name: str, scheme: str, known: Sequence[str], tls: Sequence[str]) -> str:
    if not name.isidentifier():  # it may be part of a password
        return f"has an option that is unknown for {scheme}://; known here: {', '.join(known)}"
    if name in _SETTINGS:
        return f"the option {name} is not supported; use the setting {_SETTINGS[name]}"
    if name in tls:
        server, plus, kind = scheme.partition("+")
        remedy = "drop it" if scheme == "unix" else f"write {server}s{plus}{kind}://"
        return f"the option {name} needs TLS, which {scheme}:// does not use; {remedy}"
    import difflib  # noqa: PLC0415  slow to import, and only for this error

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"the option {name} is unknown for {scheme}://; {hint}"


def _credentials(match: re.Match[str], options: Mapping[str, str], field: str) -> tuple[str | None, str | None]:
    user, password = match["user"], match["password"]
    for name, given in (("username", user), ("password", password and password[1:])):
        if given and options.get(name):
            raise ConfigError(f"{field}: gives the {name} twice, before the host and as an option; drop one of them")
    username = unquote(user or "") or options.get("username")
    return username or None, unquote((password or "")[1:]) or options.get("password") or None


def _master_and_database(kind: RedisKind, path: str, options: Mapping[str, str], field: str) -> tuple[str, int]:
    master, number = "", "" if kind is RedisKind.SOCKET else path.strip("/")
    if kind is RedisKind.SENTINEL:
        master, _, number = number.partition("/")
    option = options.get("db", "")
    if option and not re.fullmatch("[0-9]+", option):
        raise ConfigError(f"{field}: the option db must be a database number, as in ?db=0")
    if option and number and int(option) != int(number):
        raise ConfigError(f"{field}: gives two databases, {number} as path and {option} as option; drop one of them")
    return unquote(master), int(number or option or 0)


def _tls(options: Mapping[str, str], field: str) -> dict[str, Any]:
    tls: dict[str, Any] = {}
    for name in _TLS_TEXTS:
        if name in options:
            if not options[name]:
                raise ConfigError(f"{field}: the option {name} is empty; give a value, or drop it")
            tls[name] = options[name]
    for name, choices in _TLS_CHOICES.items():
        if name in options:
            if options[name].lower() not in choices:
                raise ConfigError(f"{field}: the option {name} must be one of {', '.join(choices)}")
            tls[name] = choices[options[name].lower()]
    if "ssl_certfile" not in tls and {"ssl_keyfile", "ssl_password"} & tls.keys():
        raise ConfigError(f"{field}: a client key needs its certificate; name it by ssl_certfile")
    return tls
