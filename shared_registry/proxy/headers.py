"""The rules of a proxy for headers: those that it refuses, those that it drops, and those that it adds. Pure.

Headers are pairs of bytes as received, with names in lower case.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from shared_registry.http1.fields import WITHOUT_BODY, Headers, malformed
from shared_registry.proxy.forwarding import forwarded, is_forwarding

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers about a single connection, which are never passed on."""
_NOT_TO_BE_NAMED = frozenset({b"content-length", b"host"})
"""Headers that are passed on even if `Connection` names them, because the meaning of the message depends on them."""
_NAMING_NOTHING = frozenset({b"close", b"keep-alive", b"upgrade"})
"""Members of `Connection` that name no header."""
REQUEST_ID = b"x-request-id"
_NOT_TO_REPLICA = HOP_BY_HOP | {b"expect", REQUEST_ID, b"x_request_id", b"x_request-id", b"x-request_id"}
"""The router itself answers `Expect` when it reads the body, and adds the request's id, which it may have replaced.

Some servers take the other spellings for that of the id.
"""
_NOT_TO_CLIENT = HOP_BY_HOP | {REQUEST_ID}
"""The router adds the request's id, so that the client finds the request in the logs of the router and the replica."""
_NOT_TO_CLIENT_WITHOUT_LENGTH = _NOT_TO_CLIENT | {b"content-length"}
CHUNKED = -1
"""The length of a body that is sent in chunks."""
_VERSIONS = frozenset({"1.0", "1.1"})

_AUTHORITY = rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?"
"""A host and a port (RFC 9112, section 3.2), without characters that some servers take for the end of a host."""
_HOST = re.compile(_AUTHORITY)
_ABSOLUTE = re.compile(rb"https?://(?P<authority>" + _AUTHORITY + rb")(?P<rest>[/?#].*|)", re.IGNORECASE)
_LOOKED_AT = HOP_BY_HOP | _NOT_TO_BE_NAMED
"""Headers by which servers decide where a message ends, or to which host it goes."""
_IN_NAMES = b":!#$%&'*+.^_`|~-" + (string.digits + string.ascii_letters).encode()
"""The bytes of headers' names, and the colon, which the parser leaves in no name."""
_DIGITS = re.compile(rb"[0-9]{1,18}")


class AmbiguousRequest(Exception):
    """Two servers might disagree on the end or on the host of this request; the message has the reason."""


def body_length(headers: Headers, http_version: str) -> int:
    """Return how long a request's body is: the announced number of bytes, 0 without a body, or `CHUNKED`.

    A request that could be used for request smuggling is refused, even if the parser in front accepts it.

    Raises:
        AmbiguousRequest: The request has both Content-Length and Transfer-Encoding, several lengths, an encoding other
            than chunked, a malformed header, a header that some servers take for one of these, a number of hosts other
            than one (HTTP/1.0 may have none), a malformed host, or a version other than HTTP/1.0 and HTTP/1.1.
    """
    if http_version not in _VERSIONS:
        raise AmbiguousRequest("its version must be HTTP/1.0 or HTTP/1.1")
    named = dict(headers)
    _refuse_malformed(named, headers)
    is_each_once = len(named) == len(headers)
    host = named.get(b"host")
    if host is None:
        if http_version != "1.0":
            raise AmbiguousRequest("it must name one Host")
    elif not is_each_once and len(_values(headers, b"host")) > 1:
        raise AmbiguousRequest("it must name one Host")
    elif not _HOST.fullmatch(host):
        raise AmbiguousRequest("its Host is malformed")
    if b"transfer-encoding" in named:
        _refuse_encoded(headers, named, http_version)
        return CHUNKED
    length = named.get(b"content-length")
    if length is None:
        return 0
    if not _DIGITS.fullmatch(length) or (not is_each_once and len(_values(headers, b"content-length")) > 1):
        raise AmbiguousRequest("Content-Length must be one decimal number")
    return int(length)


def _refuse_encoded(headers: Headers, named: Mapping[bytes, bytes], http_version: str) -> None:
    if b"content-length" in named:
        raise AmbiguousRequest("it has both Content-Length and Transfer-Encoding")
    encodings = [value.lower() for value in _values(headers, b"transfer-encoding")]
    if encodings != [b"chunked"] or http_version == "1.0":
        raise AmbiguousRequest("Transfer-Encoding must be chunked, in HTTP/1.1")


def _refuse_malformed(named: Mapping[bytes, bytes], headers: Headers) -> None:
    joined = b":".join(named)
    if joined.translate(None, _IN_NAMES) or b"" in named:
        raise AmbiguousRequest("a header's name is malformed")
    if malformed(headers) is not None:
        raise AmbiguousRequest("the value of a header has control characters")
    for name in named if b"_" in joined else ():
        if b"_" in name and ((plain := name.replace(b"_", b"-")) in _LOOKED_AT or is_forwarding(plain)):
            raise AmbiguousRequest(f"some servers take its header {name.decode('latin-1')} for one with hyphens")


def origin_form(target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Return a request's target without scheme and host, and the headers with that host (RFC 9112, section 3.2).

    Raises:
        AmbiguousRequest: The target is neither a path, nor an http url, nor an asterisk.
    """
    if target[:1] != b"/" and target != b"*":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise AmbiguousRequest("its target must be a path or an http url")
        others = [(name, value) for name, value in headers if name != b"host"]
        headers = [(b"host", absolute["authority"]), *others]
        target = absolute["rest"]
        target = target if target.startswith(b"/") else b"/" + target
    return target.partition(b"#")[0] if b"#" in target else target, headers


def is_websocket_handshake(headers: Headers, *, method: str, http_version: str) -> bool:
    """Return whether a request offers an upgrade to WebSocket, and to no other protocol.

    Every other offer of an upgrade is ignored, as RFC 9110, section 7.8, allows.
    """
    is_offered = method == "GET" and http_version == "1.1" and b"upgrade" in _tokens(headers, b"connection")
    return is_offered and _tokens(headers, b"upgrade") == [b"websocket"]


def to_replica(
    headers: Headers, *, client: str | None, scheme: str, is_trusted: bool = False
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request to send to the replica.

    `Host` stays the client's, as with HAProxy and Envoy. `X-Forwarded-For`, `-Proto` and `-Host` say from where the
    request came; what the client says about that is believed only if it is a trusted proxy. The request's id is
    left out.

    Args:
        headers: The headers that the client sent.
        client: The client's address, if it has one.
        scheme: The scheme of the client's connection: http, https, ws or wss.
        is_trusted: Whether the client is a trusted proxy.
    """
    named = dict(headers)
    is_chunked = b"transfer-encoding" in named
    passed = _without(headers, named, _NOT_TO_REPLICA)
    passed = forwarded(passed, named, client=client, scheme=scheme, is_trusted=is_trusted)
    if is_chunked:
        passed.append((b"transfer-encoding", b"chunked"))
    return passed


def to_client(headers: Headers, *, status: int) -> Headers:
    """Return the headers of a response to send to the client, without the request's id."""
    named = dict(headers)
    # A response of status 204 or 304 has no body, so a length would be wrong; chunks mark the end of a body themselves.
    has_length = status not in WITHOUT_BODY and b"transfer-encoding" not in named
    return _without(headers, named, _NOT_TO_CLIENT if has_length else _NOT_TO_CLIENT_WITHOUT_LENGTH)


def _without(headers: Headers, named: dict[bytes, bytes], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers but for those that are to be dropped, and those that `Connection` names.

    Args:
        headers: The headers.
        named: The last value of each. Those that are dropped may be removed.
        dropped: The names of those to be dropped.
    """
    is_each_once = len(named) == len(headers)
    connection = named.get(b"connection")
    if connection is not None and not (is_each_once and connection.lower() in _NAMING_NOTHING):
        tokens = _tokens(headers, b"connection")
        if not _NAMING_NOTHING.issuperset(tokens):
            dropped |= set(tokens) - _NOT_TO_BE_NAMED
    if is_each_once:
        for name in dropped.intersection(named):
            del named[name]
        return list(named.items())
    return [pair for pair in headers if pair[0] not in dropped]


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    """Return the members of a header that is a list, in lower case; the list may be spread over several headers."""
    members = b",".join(_values(headers, name)).lower().split(b",")
    return [stripped for member in members if (stripped := member.strip())]


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]
