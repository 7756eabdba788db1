"""Replica urls: which urls are accepted, and the canonical form that identifies a replica."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from shared_registry.errors import ConfigError

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_LENGTH = 1024
_EXAMPLE = "http://127.0.0.1:8000"
_NETLOC = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]*))?")
_LABEL = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL = re.compile(
    rf"https?://(?:(?:{_OCTET}\.){{3}}{_OCTET}|(?:{_LABEL}\.)*[a-z](?:[a-z0-9_-]*[a-z0-9_])?):(?:[1-9][0-9]{{3}}|[1-5][0-9]{{4}})"
)
"""Most urls of a large fleet, as they are in their canonical form. All others take the slower way."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def canonical_url(url: str, *, field: str = "url") -> str:
    """Return the canonical form of a replica's url, which identifies the replica in Redis.

    The scheme and the host are in lower case. The default port and a trailing slash are dropped. IP addresses are in
    their standard spelling. So all spellings of one origin name one replica. Host names are not resolved.

    Args:
        url: An http or https origin such as `http://127.0.0.1:8000`.
        field: The name of the value in an error message.

    Raises:
        ConfigError: The url is not a plain http(s) origin. The message never shows credentials or a query.
    """
    text: object = url
    if isinstance(text, str) and len(text) <= MAX_URL_LENGTH and _CANONICAL.fullmatch(text):
        return url
    parts = _split(url, field)
    _refuse_extras(url, parts, field)
    netloc = _NETLOC.fullmatch(parts.netloc.lower())
    if netloc is None:
        raise ConfigError(f"{field}: {parts.netloc!r} is not host:port; IPv6 addresses go in brackets, without a zone")
    host = _canonical_host(netloc["host"], field)
    port = _port(netloc["port"], field)
    suffix = "" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{suffix}"


def _split(url: str, field: str) -> SplitResult:
    """Split a url. First refuse text that must not be shown, and characters that `urlsplit` would silently drop."""
    if not isinstance(url, str):
        raise ConfigError(f"{field}: expected an http(s) url such as {_EXAMPLE}, got {type(url).__name__}")
    if not url:
        raise ConfigError(f"{field}: expected an http(s) url such as {_EXAMPLE}, got an empty text")
    if len(url) > MAX_URL_LENGTH:
        raise ConfigError(f"{field}: a url of {len(url)} characters; the limit is {MAX_URL_LENGTH}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ConfigError(f"{field}: contains white space or control characters; remove them")
    if "@" in url:
        raise ConfigError(f"{field}: contains credentials; remove everything from the user name to the '@'")
    if not url.isascii():
        raise ConfigError(f"{field}: {url!r} is not plain ASCII; write international names in their xn-- form")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"{field}: {_shown(url)} is not a url; expected something like {_EXAMPLE}") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise ConfigError(f"{field}: {_shown(url)} must start with http:// or https://")
    if not parts.netloc:
        raise ConfigError(f"{field}: {_shown(url)} has no host; expected something like {_EXAMPLE}")
    return parts


def _refuse_extras(url: str, parts: SplitResult, field: str) -> None:
    if parts.path not in ("", "/"):
        raise ConfigError(
            f"{field}: {_shown(url)} must be given without a path; set health_check_path to choose what is probed"
        )
    if "?" in url or "#" in url:
        raise ConfigError(f"{field}: {_shown(url)} must not carry a query/fragment; give scheme, host and port only")


def _shown(url: str) -> str:
    """Quote a url up to its query, which may carry a token."""
    return repr(re.split("[?#]", url, maxsplit=1)[0])


def _canonical_host(host: str, field: str) -> str:
    if host.startswith("["):
        return f"[{_canonical_ipv6(host[1:-1], field)}]"
    if not _HOST.fullmatch(host):
        raise ConfigError(f"{field}: {host!r} is not a host name; use letters, digits, '-', '_' and single dots")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # Resolvers read 127.1, 0x7f.1 and 2130706433 as 127.0.0.1, so one replica could be registered twice.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ConfigError(f"{field}: {host!r} is not an IPv4 address; write four decimal numbers") from None
    return host


def _canonical_ipv6(text: str, field: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ConfigError(f"{field}: {text!r} is not an IPv6 address") from None
    # str() of a mapped address differs between Python versions, and the routers may run different versions.
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


def _port(text: str | None, field: str) -> int | None:
    if not text:
        return None
    port = int(text)
    if not 1 <= port <= 65535:
        raise ConfigError(f"{field}: {text} is not a valid port; use 1 to 65535")
    return port
