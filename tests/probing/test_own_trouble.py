"""Which errors are this router's own, as the libraries really raise them, and as texts."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import ssl
import urllib.request
from collections.abc import Awaitable, Callable

import httpx
import pytest
import uvloop
from websockets.asyncio.client import connect as connect_websocket

from shared_registry.probing import own_trouble as module
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble
from tests.support.descriptors import out_of_descriptors

URL = "http://127.0.0.1:9"
ALWAYS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN]
NEVER = [
    errno.EHOSTUNREACH,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EPIPE,
    errno.EACCES,
    errno.EINVAL,
]


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def joined(*numbers: int) -> OSError:
    """What asyncio raises where several addresses fail for different reasons."""
    return OSError("Multiple exceptions: " + ", ".join(str(error(number)) for number in numbers))


@pytest.fixture
def is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_route", lambda: True)


@pytest.fixture
def is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_route", lambda: False)


@pytest.mark.parametrize("number", ALWAYS)
def test_errors_of_this_machine_are_its_own_trouble(number: int) -> None:
    trouble = own_trouble(error(number), url=URL)
    assert trouble is not None
    assert str(trouble) == os.strerror(number).lower()
    assert trouble.is_general
    assert trouble.remedy


@pytest.mark.parametrize("number", NEVER)
@pytest.mark.usefixtures("is_cut_off")
def test_errors_of_a_dead_replica_are_its_failure(number: int) -> None:
    assert own_trouble(error(number), url=URL) is None
    assert own_trouble(str(error(number)), url=URL) is None


@pytest.mark.usefixtures("is_connected")
def test_with_a_route_an_unreachable_network_is_the_replicas_failure() -> None:
    assert own_trouble(error(errno.ENETUNREACH), url=URL) is None


@pytest.mark.usefixtures("is_cut_off")
def test_without_a_route_an_unreachable_network_is_own_trouble() -> None:
    assert own_trouble(error(errno.ENETUNREACH), url=URL) is not None


def test_a_lack_of_ports_leaves_other_replicas_usable() -> None:
    trouble = own_trouble(error(errno.EADDRNOTAVAIL), url=URL)
    assert trouble is not None
    assert not trouble.is_general
    assert "ip_local_port_range" in trouble.remedy


@pytest.mark.parametrize("is_in_text", [True, False])
@pytest.mark.usefixtures("is_connected")
def test_an_address_unusable_for_sockets_is_the_replicas_failure(
    monkeypatch: pytest.MonkeyPatch, is_in_text: bool
) -> None:
    """As of IPv6 addresses where IPv6 is off; test_own_network.py has the real thing."""
    tried: list[str] = []

    def refuse(family: int, host: str, port: int) -> int:
        tried.append(host)
        return errno.EADDRNOTAVAIL

    monkeypatch.setattr(module, "_connect_udp", refuse)
    failure = error(errno.EADDRNOTAVAIL)
    if is_in_text:
        failure = OSError(errno.EADDRNOTAVAIL, "Connect call failed ('2001:db8::7', 8000, 0, 0)")
    assert own_trouble(failure, url="http://replica:8000" if is_in_text else "http://[2001:db8::7]:8000") is None
    assert tried == ["2001:db8::7"]


@pytest.mark.parametrize(
    ("numbers", "is_own"),
    [
        ([errno.EMFILE, errno.ECONNREFUSED], True),
        ([errno.ECONNREFUSED, errno.ENOMEM], True),
        ([errno.ENETUNREACH, errno.ECONNREFUSED], False),
        ([errno.EADDRNOTAVAIL, errno.ECONNREFUSED], False),
        ([errno.ENETUNREACH, errno.EADDRNOTAVAIL], True),
        ([errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL], True),
        ([errno.EHOSTUNREACH, errno.ENETUNREACH], False),
        ([errno.ECONNREFUSED, errno.EHOSTUNREACH], False),
    ],
)
@pytest.mark.usefixtures("is_connected")
def test_of_several_addresses_the_one_that_was_asked_decides(numbers: list[int], is_own: bool) -> None:
    group = ExceptionGroup("multiple connection attempts failed", [error(number) for number in numbers])
    for failure in (joined(*numbers), group, str(joined(*numbers))):
        assert (own_trouble(failure, url=URL) is not None) is is_own, failure


def chained(*errors: Exception) -> Exception:
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    "failure",
    [
        chained(RuntimeError("probe failed"), ValueError("wrapped"), error(errno.EMFILE)),
        chained(ValueError(), ExceptionGroup("some", [ExceptionGroup("more", [error(errno.EMFILE)])])),
        MemoryError(),
        RuntimeError("can't start new thread"),
        socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
        OwnTrouble("mine", "mend it"),
    ],
    ids=str,
)
def test_own_trouble_is_found_in_any_wrapping(failure: Exception) -> None:
    assert own_trouble(failure, url=URL) is not None


def test_the_exception_raised_last_decides() -> None:
    assert own_trouble(chained(error(errno.ECONNREFUSED), error(errno.EMFILE)), url=URL) is None
    assert own_trouble(chained(ssl.SSLError(errno.EMFILE, "a number of OpenSSL's"), ValueError()), url=URL) is None
    looped = ValueError()
    looped.__cause__ = RuntimeError()
    looped.__cause__.__cause__ = looped
    assert own_trouble(looped) is None


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 24] Too many open files",
        "ConnectError: [Errno 24] Too many open files",
        "httpx.ConnectError: [Errno 24] Too many open files",
        "OSError(24, 'Too many open files')",
        "ConnectError('[Errno 24] Too many open files')",
        "<urlopen error [Errno 24] Too many open files>",
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 24] Too many open files",
        "RuntimeError: can't start new thread",
        "Cannot connect to host 10.0.0.1:8000 ssl:default [Too many open files]",
        "ClientConnectorError: Cannot connect to host 10.0.0.1:8000 ssl:default [Too many open files]",
        "HTTPConnectionPool(host='a', port=80): Max retries exceeded with url: / (Caused by NewConnectionError(\"HTTP"
        "Connection(host='a', port=80): Failed to establish a new connection: [Errno 24] Too many open files\"))",
    ],
)
def test_texts_of_exceptions_are_recognized(text: str) -> None:
    assert own_trouble(text, url=URL) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "timeout",
        "HTTP 500",
        "HTTP 500: [Errno 24] Too many open files",
        "body: error is '[Errno 24] Too many open files', expected 'ok'",
        "error: [Errno 24] Too many open files",
        "the replica says: OSError(24, 'Too many open files')",
        "ConnectError: connection refused",
        "ReadError: [Errno 104] Connection reset by peer",
        "too many open files",
        "Cannot connect to host 10.0.0.1:8000 ssl:default [Connection refused]",
        "Cannot connect to host, says the replica [Too many open files]",
    ],
)
def test_text_that_a_replica_may_have_sent_does_not_count(text: str) -> None:
    assert own_trouble(text, url=URL) is None


async def by_asyncio(host: str) -> object:
    return await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, 9)


async def by_httpx(host: str) -> object:
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        return await client.get(f"http://{host}:9/health")


async def by_websockets(host: str) -> object:
    return await connect_websocket(f"ws://{host}:9", proxy=None)


async def by_urllib(host: str) -> object:
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{host}:9/health", timeout=5)


async def failure_of(call: Callable[[str], Awaitable[object]], host: str) -> Exception:
    try:
        await call(host)
    except Exception as failure:  # noqa: BLE001  it is what is looked for
        return failure
    raise AssertionError("it cannot have succeeded")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("call", [by_asyncio, by_httpx, by_websockets, by_urllib])
def test_own_trouble_is_recognized_in_errors_of_http_clients(
    call: Callable[[str], Awaitable[object]], host: str, loop: str
) -> None:
    async def meet() -> tuple[OwnTrouble | None, OwnTrouble | None, OwnTrouble | None]:
        refused = own_trouble(await failure_of(call, host), url=URL)  # and all is imported, and threads are there
        with out_of_descriptors():
            failure = await failure_of(call, host)
            return refused, own_trouble(failure, url=URL), own_trouble(f"{type(failure).__name__}: {failure}", url=URL)

    refused, met, text = (uvloop.run if loop == "uvloop" else asyncio.run)(meet())
    assert refused is None
    assert str(met) == "too many open files"
    assert str(text) == "too many open files"


def raised_by_lookups() -> list[Exception]:
    """What a resolver without a descriptor becomes: some number or none by Python; uvloop has words of its own."""
    return [
        OSError(0, "Error"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.EBUSY, "Device or resource busy"),
        OSError(errno.EINPROGRESS, "Operation now in progress"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError("getaddrinfo() returned empty list"),
        RuntimeError("AddrInfo.data is NULL"),
        ssl.SSLCertVerificationError(1, "certificate verify failed: unable to get local issuer certificate"),
    ]


@pytest.mark.parametrize("failure", raised_by_lookups(), ids=repr)
@pytest.mark.usefixtures("is_connected")
def test_ambiguous_errors_count_while_descriptors_are_missing(failure: Exception) -> None:
    assert own_trouble(failure, url="http://name:1") is None
    with out_of_descriptors(spare=1):
        assert str(own_trouble(failure, url="http://name:1")) == "too many open files"


SILENT_RESOLVER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.usefixtures("is_cut_off")
def test_a_resolver_that_no_route_leads_to_is_ones_own() -> None:
    assert str(own_trouble(SILENT_RESOLVER)) == "network is unreachable"
    assert own_trouble(NO_SUCH_NAME) is None


@pytest.mark.usefixtures("is_connected")
def test_a_resolver_that_does_not_respond_is_ones_own() -> None:
    for failure in (
        SILENT_RESOLVER,
        chained(RuntimeError("session"), SILENT_RESOLVER),
        f"ConnectError: {SILENT_RESOLVER}",
    ):
        trouble = own_trouble(failure, url="http://name:1")
        assert str(trouble) == module.RESOLVER_REASON
        assert trouble is not None
        assert not trouble.is_general, "replicas with other names may be reached"


@pytest.mark.usefixtures("is_connected")
@pytest.mark.parametrize("code", ["EAI_NONAME", "EAI_NODATA", "EAI_FAIL"])
def test_a_name_that_does_not_exist_is_the_replicas(code: str) -> None:
    number = getattr(socket, code, None)
    if number is None:
        pytest.skip(f"this system has no {code}")
    assert own_trouble(socket.gaierror(number, "of the resolver"), url="http://name:1") is None


@pytest.mark.usefixtures("is_connected")
def test_without_descriptors_a_silent_resolver_is_a_want_of_descriptors() -> None:
    with out_of_descriptors(spare=1):
        assert str(own_trouble(SILENT_RESOLVER, url="http://name:1")) == "too many open files"
