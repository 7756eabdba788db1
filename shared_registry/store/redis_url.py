"""Validates Redis urls, and masks their secrets for display. Opens no connection. The accepted forms follow.

redis://[user:password@]host[:port][/db][?option=value]       one server; rediss:// the same over TLS
unix://[user:password@]/path/to/socket[?db=0]                 one server on this machine
redis+sentinel://[...@]h1[:port],h2[:port]/master[/db]        the master that these sentinels name
redis+cluster://[...@]h1[:port],h2[:port]                     the cluster that these nodes belong to
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from shared_registry.errors import ConfigError

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^/?#:@]*)(?P<password>:[^/?#]*)?@)?(?P<hosts>[^/?#@]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::(?P<port>[0-9]{1,5}))?")
_SECRET_OPTION = re.compile("pass|secret|token", re.IGNORECASE)
_PATHS = {
    "redis": (r"/?|/[0-9]+", "the path is the database number, as in redis://host:6379/0"),
    "rediss": (r"/?|/[0-9]+", "the path is the database number, as in rediss://host:6379/0"),
    "unix": (r"/.*[^/]", "give the socket's absolute path, as in unix:///run/redis.sock?db=0"),
    "redis+sentinel": (
        r"/[^/]+(?:/|/[0-9]+)?",
        "name the master that the sentinels watch, as in redis+sentinel://h1:26379,h2:26379/mymaster/0",
    ),
    "redis+cluster": ("/?|/0", "a cluster has database 0 only; drop the path, as in redis+cluster://h1:6379,h2:6379"),
}


def check_redis_url(url: object, field: str = "redis_url") -> str:
    """Return the url if it has one of the forms above. No connection is made.

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
    if scheme not in REDIS_SCHEMES:
        raise ConfigError(f"{field}: its scheme is not one of {', '.join(REDIS_SCHEMES)}; write redis://host:6379/0")
    match = _match(url)
    if match is None:
        raise ConfigError(
            f"{field}: not a {scheme}:// url; percent-encode special characters ('/' in a password is %2F, '@' is %40)"
        )
    _check_hosts(scheme, match["hosts"], field)
    pattern, remedy = _PATHS[scheme]
    if not re.fullmatch(pattern, match["path"] or ""):
        raise ConfigError(f"{field}: {mask_redis_url(url)!r} has a wrong path; {remedy}")
    return url


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
