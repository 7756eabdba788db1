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
_SEPARATORS = re.compile(r"[,\s]+")


def check_trusted_proxies(value: object) -> tuple[str, ...]:
    """Return the networks of the setting `trusted_proxies` in their normal form.

    Args:
        value: A list of addresses and networks, or the same as text, separated by commas; `none` is an empty list.

    Raises:
        ConfigError: The value is not such a list.
    """
    items = _items("trusted_proxies", value, "[10.0.0.0/8, 192.168.1.7]")
    return tuple(dict.fromkeys(_network(f"trusted_proxies[{at}]", item) for at, item in enumerate(items)))


def tls_misfits(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not fit together among the settings of TLS to clients. Wrong settings are absent."""
    certificate, authorities = "tls_certificate_file", "tls_client_ca_file"
    yield from half_of_a_pair(settings, certificate, "tls_key_file")
    if settings.get(authorities) and certificate in settings and not settings[certificate]:
        text = f"{authorities}: has no effect without {certificate}; give the router a certificate, or remove it"
        yield Problem(text, (authorities, certificate))


def _items(field: str, value: object, example: str) -> Sequence[object]:
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
