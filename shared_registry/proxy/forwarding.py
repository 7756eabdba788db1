"""Which client a request comes from, when proxies stand in front of the router, and what replicas are told of it. Pure.

Anybody can send `X-Forwarded-For`. It is believed only of the proxies that the setting `trusted_proxies` names, and of
their own entries only: each proxy appends the address that it saw, so the client is the last address in the list that
is not a trusted proxy's. Whatever stands before it may be invented.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence

_FOR, PROTO, _HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_STANDARD, _REAL_IP = b"forwarded", b"x-real-ip"
_OWN = frozenset({_FOR, PROTO, _HOST, _STANDARD})
"""The headers to which the router adds what it knows itself."""
MOST_HOPS = 32
"""How many entries of `X-Forwarded-For` are read: the list may be as long as a head, and each entry costs time."""
KNOWN_ADDRESSES = 4096


class TrustedProxies:
    """The addresses whose forwarding headers are believed."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known = functools.lru_cache(KNOWN_ADDRESSES)(self._is_inside)

    def trusts(self, address: str | None) -> bool:
        """Return whether an address, in its plain form, is a trusted proxy's. A peer without an address is not."""
        return address is not None and self._known(address)

    def client_of(self, peer: str | None, fields: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Return the address of the client that sent a request.

        An entry of `X-Forwarded-For` that is no address ends the search: then it is the last proxy before that entry.

        Args:
            peer: The address from which the connection came, in its plain form.
            fields: The request's headers, with names in lower case.
        """
        if not self.trusts(peer):
            return peer
        found = peer
        entries = b",".join([value for _, value in about_client(fields)]).rsplit(b",", MOST_HOPS)
        for entry in reversed(entries[-MOST_HOPS:]):
            address = _address_of(entry)
            if address is None:
                break
            found = address
            if not self.trusts(address):
                break
        return found

    def _is_inside(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def about_client(fields: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a request that tell the client's address, if a trusted proxy has sent them."""
    return tuple([pair for pair in fields if pair[0] == _FOR])


def plain_address(address: str) -> str:
    """Return an address without a zone, and an IPv4 address that came over an IPv6 socket as what it is."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or parsed)


def is_forwarding(name: bytes) -> bool:
    """Return whether a header, by its name in lower case, says for whom a proxy forwards a request."""
    return name.startswith(b"x-forwarded-") or name in (_STANDARD, _REAL_IP)


def forwarded(
    passed: list[tuple[bytes, bytes]],
    named: Mapping[bytes, bytes],
    *,
    client: str | None,
    scheme: str,
    is_trusted: bool,
) -> list[tuple[bytes, bytes]]:
    """Return headers for a replica with those that say from where the request came.

    Args:
        passed: The headers to pass on.
        named: The last value of each header that the client sent.
        client: The address from which the connection came, if it has one.
        scheme: The scheme of the connection: http, https, ws or wss.
        is_trusted: Whether that address is a trusted proxy's. Otherwise all that it says about this is dropped.
    """
    own, host = own_fields(client, scheme), named.get(b"host")
    names = b":".join(named)
    if b"forwarded" in names or _REAL_IP in names:
        told = [pair for pair in passed if is_forwarding(pair[0])] if is_trusted else []
        passed = [pair for pair in passed if not is_forwarding(pair[0])]
        if told:
            return passed + _told_and_own(told, own, host=host, client=client)
    passed += own
    if host:
        passed.append((_HOST, host))
    return passed


def _told_and_own(
    told: Sequence[tuple[bytes, bytes]],
    own: Sequence[tuple[bytes, bytes]],
    *,
    host: bytes | None,
    client: str | None,
) -> list[tuple[bytes, bytes]]:
    """Return what a trusted proxy says, with what the router itself adds."""
    both = _added(told, own)
    if host := dict(reversed(told)).get(_HOST) or host:
        both.append((_HOST, host))
    both += [pair for pair in told if pair[0] not in _OWN]
    if standard := [value for name, value in told if name == _STANDARD]:
        both.append((_STANDARD, b", ".join([*standard, _element(client, dict(own)[PROTO])])))
    return both


@functools.lru_cache(KNOWN_ADDRESSES)
def own_fields(client: str | None, scheme: str) -> list[tuple[bytes, bytes]]:
    """Return what the router itself says of a connection."""
    proto = (PROTO, b"https" if scheme in ("https", "wss") else b"http")
    return [(_FOR, client.encode("latin-1", "replace")), proto] if client else [proto]


def _added(told: Sequence[tuple[bytes, bytes]], own: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return what a trusted proxy and the router say: all addresses, and the first protocol."""
    addresses = [value for name, value in (*told, *own) if name == _FOR]
    proto = next(value for name, value in (*told, *own) if name == PROTO and value)
    return [*([(_FOR, b", ".join(addresses))] if addresses else ()), (PROTO, proto)]


def _element(client: str | None, proto: bytes) -> bytes:
    """Return what the router adds to `Forwarded` (RFC 7239)."""
    node = "unknown" if not client else f'"[{client}]"' if ":" in client else client
    return b"for=%b;proto=%b" % (node.encode("latin-1", "replace"), proto)


def _address_of(entry: bytes) -> str | None:
    """Return the address in an entry of `X-Forwarded-For`, which may have a port; `None` if it is none."""
    text = entry.strip().decode("latin-1")
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        is_port = not port or (port[0] == ":" and _is_port(port[1:]))
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        is_port = _is_port(port)
    else:
        is_port = True
    if not is_port or "%" in text:
        return None
    try:
        return plain_address(str(ipaddress.ip_address(text)))
    except ValueError:
        return None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
