"""The rules for the settings that say which clients a router serves, and whom it believes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared_registry.config.probe_rules import half_of_a_pair
from shared_registry.config.problems import Problem, shorten
from shared_registry.errors import ConfigError

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The addresses from which only programs on this machine can connect."""
MOST_ITEMS = 1000
ANY_ORIGIN = "*"
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?")
_USUAL_PORTS = {"http": ":80", "https": ":443"}
_SEPARATORS = re.compile(r"[,\s]+")

_CERTIFICATE = "tls_certificate_file"


def check_trusted_proxies(value: object) -> tuple[str, ...]:
    """Return the networks of the setting `trusted_proxies` in their normal form.

    Args:
        value: A list of addresses and networks, or the same as text, separated by commas; `none` is an empty list.

    Raises:
        ConfigError: The value is not such a list.
    """
    items = items_of("trusted_proxies", value, "[10.0.0.0/8, 192.168.1.7]")
    return tuple(dict.fromkeys(_network(f"trusted_proxies[{at}]", item) for at, item in enumerate(items)))


def check_cors_origins(value: object) -> tuple[str, ...]:
    """Return the origins of the setting `cors_origins`, as browsers send them.

    Args:
        value: A list of origins, or the same as text, separated by commas; `none` is an empty list.

    Raises:
        ConfigError: The value is not such a list.
    """
    items = items_of("cors_origins", value, "[https://app.example.com]")
    origins = tuple(dict.fromkeys(_origin(f"cors_origins[{at}]", item) for at, item in enumerate(items)))
    if ANY_ORIGIN in origins and len(origins) > 1:
        raise ConfigError(f"cors_origins: '{ANY_ORIGIN}' contains all others; write either '{ANY_ORIGIN}' or a list")
    return origins


def tls_misfits(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not fit together among the settings of TLS to clients. Wrong settings are absent."""
    yield from half_of_a_pair(settings, _CERTIFICATE, "tls_key_file")
    yield from useless_authorities(settings, "tls_client_ca_file")


def useless_authorities(settings: Mapping[str, Any], authorities: str) -> Iterator[Problem]:
    """Yield a problem if clients are to have certificates, and the router has none. Wrong settings are absent."""
    if settings.get(authorities) and _CERTIFICATE in settings and not settings[_CERTIFICATE]:
        text = f"{authorities}: has no effect without {_CERTIFICATE}; give the router a certificate, or remove it"
        yield Problem(text, (authorities, _CERTIFICATE))


def lost_session_keys(settings: Mapping[str, Any], place: str | None) -> Iterator[Problem]:
    """Yield a problem if the name of a session is where API keys are, which are removed. Wrong settings are absent."""
    has_keys = settings.get("api_keys") or settings.get("api_keys_file")
    if not has_keys or settings.get("forward_api_key") or place is None:
        return
    if place.lower() in ("header:authorization", "header:x-api-key"):
        text = f"session_key: {place} has the API key, which is removed; use another place, or set forward_api_key"
        yield Problem(text, ("session_key", "forward_api_key"))


def items_of(field: str, value: object, example: str) -> Sequence[object]:
    """Return the items of a list that may be given as text, separated by commas."""
    if isinstance(value, str):
        value = [] if value.strip().lower() in ("", "none") else [item for item in _SEPARATORS.split(value) if item]
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise ConfigError(f"{field}: must be a list such as {example}, got {shorten(value)}")
    if len(value) > MOST_ITEMS:
        raise ConfigError(f"{field}: has {len(value)} items; use at most {MOST_ITEMS}")
    return value


def _network(where: str, value: object) -> str:
    example = "write one such as 10.0.0.0/8 or 192.168.1.7"
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {shorten(value)} is no address and no network; {example}")
    try:
        network = ipaddress.ip_network(value, strict=False)
        address = ipaddress.ip_address(value.partition("/")[0])
    except ValueError:
        raise ConfigError(f"{where}: {shorten(value)} is no address and no network; {example}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ConfigError(f"{where}: {shorten(value)} matches nothing; write the IPv4 address without ::ffff:")
    if address != network.network_address:
        raise ConfigError(f"{where}: {shorten(value)} has bits set behind its prefix; write {network} for that network")
    return str(network)


def _origin(where: str, value: object) -> str:
    if value == ANY_ORIGIN:
        return ANY_ORIGIN
    match = _ORIGIN.fullmatch(value.lower()) if isinstance(value, str) else None
    if match is None:
        remedy = f"write one such as https://app.example.com, without a path, or '{ANY_ORIGIN}' for all"
        raise ConfigError(f"{where}: {shorten(value)} is no origin; {remedy}")
    is_usual = _USUAL_PORTS.get(match["scheme"]) == match["port"]  # browsers leave the usual port out
    return f"{match['scheme']}://{match['host']}{'' if is_usual else match['port'] or ''}"
