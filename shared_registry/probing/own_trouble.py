"""Decides whether a failed connection is the replica's failure or this router's own trouble (`Evidence.UNSURE`).

This is the only place that decides it, for probes and for sessions. A router without free file descriptors, local
ports, memory, a route or a resolver cannot connect to any replica. Such failures are not counted. Otherwise one router
in trouble would make every replica unhealthy for all routers. It is always the replica's failure if it refuses the
connection, does not respond, is unreachable as a host (`EHOSTUNREACH`), like a machine that is switched off, or if the
resolver responds that its name does not exist.

Pure, except for ambiguous errors, for which it asks the kernel whether more descriptors can be opened, and whether
there is a route. It does so by connecting UDP sockets, which sends nothing.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

SPARE_DESCRIPTORS = 4
"""The number of free descriptors that a connection may need: a socket, the hosts file, the resolver's socket, and a
file of certificate authorities. With fewer, a lookup of a name or a check of a certificate may fail."""

_REMEDIES = {
    errno.EMFILE: "raise this process's limit of open files (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "raise this machine's limit of open files (fs.file-max)",
    errno.ENOBUFS: "give this machine or container more memory for its network",
    errno.ENOMEM: "give this machine or container more memory",
    errno.EADDRNOTAVAIL: "widen the range of local ports (net.ipv4.ip_local_port_range), or add routers",
    errno.ENETDOWN: "check the network of this machine",
    errno.ENETUNREACH: "check the network of this machine: it has no route",
}
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LOCAL = frozenset({errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENETUNREACH})
_LACKING = _LOCAL | {errno.EAFNOSUPPORT}
"""The errors after which no packet has reached an address. They are trouble only if every address has one of them."""

_OF_CONNECTIONS = _LACKING | {
    errno.EACCES,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EPERM,
    errno.EPIPE,
    errno.ETIMEDOUT,
}
"""The errors of connections. With any other one, the lookup of the name may have failed."""

_FAR_AWAY = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_IPV4_ROUTES, _IPV6_ROUTES = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
_UP, _REJECT = 0x1, 0x200

RESOLVER_REASON = "the name cannot be looked up: the resolver does not respond"
_RESOLVER_REMEDY = "check the resolver of this machine (/etc/resolv.conf)"

_NUMBERED = re.compile(r"\[Errno (-?\d+)\](?: Connect call failed \('([^']+)', (\d+))?")
_OPAQUE = ("All connection attempts failed", "getaddrinfo() returned empty list", "AddrInfo.data is NULL")
"""Texts of errors without a number: of httpx, and of uvloop after the system's resolver has failed."""
_NO_THREAD = "can't start new thread"
_MARK = r"(?:\[Errno -?\d+\]|\w*Error\(\d+, '|All connection attempts failed|can't start new thread)"
_WRAPPED = re.compile(
    r"(?:(?:[\w.]*(?:Error|Exception)|Multiple exceptions|Failed to establish a new connection)(?:: |\(['\"])"
    rf"|<urlopen error |HTTPS?ConnectionPool\([^\[]*: Failed to establish a new connection: )*(?={_MARK})"
)
"""The prefixes that may precede the error in an exception's text. A text that a replica sent must not match."""
_AIOHTTP = re.compile(r"(?:[\w.]*Error: )?Cannot connect to host \S+ ssl:\S+ \[([^\]]+)\]$")
_BY_WORDS = {os.strerror(number).lower(): number for number in _REMEDIES}
_REPR = re.compile(r"\w*Error\((\d+), '")


class OwnTrouble(Exception):
    """This router could not connect, for a reason of its own. It is no failure of the replica. The text has the reason.

    Attributes:
        remedy: The remedy for an operator.
        is_general: Whether connections to all other replicas would probably fail in the same way.
    """

    def __init__(self, reason: str, remedy: str, *, is_general: bool = True) -> None:
        super().__init__(reason)
        self.remedy = remedy
        self.is_general = is_general


def own_trouble(error: BaseException | str, *, url: str = "") -> OwnTrouble | None:
    """Return this router's own trouble if it made a connection fail; `None` if the failure is the replica's.

    Args:
        error: The exception, which other exceptions may wrap, or its text. A text counts only if it has the form of an
            exception's text; a text that a replica sent never counts.
        url: The replica's url.
    """
    leaves = list(_of_text(error) if isinstance(error, str) else _of_chain(error))
    for leaf in leaves:
        if isinstance(leaf, OwnTrouble):
            return leaf
        if leaf.number in _EXHAUSTED:
            return _trouble(leaf.number)
        if leaf.is_opaque and (number := _shortage()):
            return _trouble(number)
        if leaf.is_lookup:
            return resolver_trouble() if has_route() else _trouble(errno.ENETUNREACH)
    numbers = [leaf.number for leaf in leaves if isinstance(leaf, _Leaf)]
    if numbers and all(number in _LACKING for number in numbers):
        for leaf in leaves:
            if isinstance(leaf, _Leaf) and _is_confirmed(leaf, url):
                return _trouble(leaf.number)
    return None


def has_route() -> bool:
    """Return whether this machine has a route to any other machine."""
    if any(_connect_udp(family, host, 9) is None for family, host in _FAR_AWAY):
        return True
    return any(_routes())


def resolver_trouble() -> OwnTrouble:
    """Return the trouble that a name cannot be looked up now. Replicas with other names may still be reached."""
    return OwnTrouble(RESOLVER_REASON, _RESOLVER_REMEDY, is_general=False)


def lacks_descriptors() -> bool:
    """Return whether this process cannot open the descriptors that a connection may need."""
    return _shortage() is not None


class _Leaf(NamedTuple):
    """One cause of a failure.

    Attributes:
        number: The system's error number; 0 if there is none.
        host: The address that was tried, if it is known.
        port: The port that was tried; 0 if it is not known.
        is_opaque: Whether the cause may be a lack of descriptors.
        is_lookup: Whether the lookup of the name failed temporarily.
    """

    number: int = 0
    host: str = ""
    port: int = 0
    is_opaque: bool = False
    is_lookup: bool = False


def _of_chain(error: BaseException | None, depth: int = 0) -> Iterator[_Leaf | OwnTrouble]:
    """Yield the causes of the first exception in a chain that has any."""
    while error is not None and depth < 16:
        found = list(_of_one(error, depth))
        if found:
            yield from found
            return
        depth += 1
        error = error.__cause__ or error.__context__  # even if it is suppressed: httpcore raises "from None"


def _of_one(error: BaseException, depth: int) -> Iterator[_Leaf | OwnTrouble]:
    match error:
        case OwnTrouble():
            yield error
        case BaseExceptionGroup():
            for one in error.exceptions:
                yield from _of_chain(one, depth + 1)
        case MemoryError():
            yield _Leaf(errno.ENOMEM)
        case socket.gaierror():
            yield _lookup(error.errno or 0)
        case ssl.SSLError():
            yield _Leaf(is_opaque=isinstance(error, ssl.SSLCertVerificationError))
        case OSError() if error.errno is not None:
            yield from _of_numbers(str(error), error.errno)
        case OSError() | RuntimeError() if error.__cause__ is None:
            yield from _of_words(str(error))


def _of_numbers(text: str, number: int) -> Iterator[_Leaf]:
    where = _NUMBERED.search(text)
    host, port = (where[2] or "", int(where[3] or 0)) if where else ("", 0)
    yield _leaf(number, host, port)


def _leaf(number: int, host: str, port: int) -> _Leaf:
    if number < 0:
        return _lookup(number)
    # A resolver without a free descriptor may raise an error without a number, or with that of any earlier failure.
    return _Leaf(number, host, port, is_opaque=number not in _OF_CONNECTIONS)


def _lookup(code: int) -> _Leaf:
    """Return the cause for the code of a failed lookup. The code is not an errno, and is negative on Linux."""
    number = errno.ENOMEM if code == socket.EAI_MEMORY else 0
    return _Leaf(number, is_opaque=True, is_lookup=code == socket.EAI_AGAIN)


def _of_words(text: str) -> Iterator[_Leaf | OwnTrouble]:
    """Yield the causes in the text of an error without a number: asyncio joins the texts of several errors."""
    if _NO_THREAD in text:
        yield OwnTrouble(_NO_THREAD, "raise the limit of processes (ulimit -u, pids.max)")
    elif any(words in text for words in _OPAQUE):
        yield _Leaf(is_opaque=True)
    else:
        for found in _NUMBERED.finditer(text):
            yield _leaf(int(found[1]), found[2] or "", int(found[3] or 0))


def _of_text(text: str) -> Iterator[_Leaf | OwnTrouble]:
    if found := _AIOHTTP.match(text):
        yield _Leaf(_BY_WORDS.get(found[1].lower(), 0))
        return
    wrapped = _WRAPPED.match(text)
    if wrapped is None:
        return
    rest = text[wrapped.end() :]
    if found := _REPR.match(rest):
        yield _Leaf(int(found[1]))
    else:
        yield from _of_words(rest)


def _trouble(number: int) -> OwnTrouble:
    return OwnTrouble(os.strerror(number).lower(), _REMEDIES[number], is_general=number != errno.EADDRNOTAVAIL)


def _shortage() -> int | None:
    """Return the error number with which this process fails to open a few descriptors; `None` if it can open them."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(SPARE_DESCRIPTORS):
                opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        except OSError as error:
            return error.errno if error.errno in _EXHAUSTED else None
    return None


def _is_confirmed(leaf: _Leaf, url: str) -> bool:
    """Return whether an error is this machine's, although the address could cause it as well."""
    if leaf.number not in _LOCAL:
        return False
    if leaf.number == errno.ENETDOWN:
        return True
    return (leaf.number == errno.EADDRNOTAVAIL and _is_out_of_ports(leaf, url)) or not has_route()


def _is_out_of_ports(leaf: _Leaf, url: str) -> bool:
    """Return whether a UDP socket can connect to the address. TCP then lacks local ports; UDP has its own.

    An address of a family that this machine does not have fails for UDP as well. Such a replica is misconfigured, and
    its probes must fail, so that its status does not stay `unknown`.
    """
    host, port = leaf.host, leaf.port
    if not host:
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 80
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:  # a name
        return True
    return _connect_udp(family, host, port) not in _LACKING


def _connect_udp(family: socket.AddressFamily, host: str, port: int) -> int | None:
    """Return the error number if a UDP socket gets no route to an address; `None` if it gets one. Sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
    except OSError as error:
        return error.errno
    return None


def _routes() -> Iterator[bool]:
    """Yield, for each route that Linux lists, whether it leads to other machines."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _IPV4_ROUTES.read_text().splitlines()[1:]:
            interface, _, _, flags = line.split()[:4]
            yield _leads_out(interface, int(flags, 16))
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _IPV6_ROUTES.read_text().splitlines():
            fields = line.split()
            if not fields[0].startswith(("fe8", "ff")):  # every interface has link-local and multicast routes
                yield _leads_out(fields[9], int(fields[8], 16))


def _leads_out(interface: str, flags: int) -> bool:
    return interface not in ("lo", "*") and bool(flags & _UP) and not flags & _REJECT
