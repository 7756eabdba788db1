"""Whom a request comes from, behind proxies that are trusted and others: addresses in all forms, and lists of them."""

from __future__ import annotations

import pytest

from shared_registry.proxy.forwarding import MOST_HOPS, TrustedProxies, plain_address
from shared_registry.proxy.headers import AmbiguousRequest, body_length, to_replica

Pairs = list[tuple[bytes, bytes]]
HOST = (b"host", b"a:1")
PROXIES = TrustedProxies(["10.0.0.0/8", "::1/128", "2001:db8::/32"])
INVENTED = [
    (b"x-forwarded-for", b"6.6.6.6"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"bank"),
    (b"x-forwarded-port", b"443"),
    (b"x-forwarded-client-cert", b"By=me"),
    (b"x-forwarded-anything", b"1"),
    (b"x-real-ip", b"6.6.6.6"),
    (b"forwarded", b"for=6.6.6.6"),
]


def chain(*values: bytes) -> Pairs:
    return [(b"x-forwarded-for", value) for value in values]


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("::1", True),
        ("::2", False),
        ("2001:db8::7", True),
        ("unix:", False),
        ("", False),
        (None, False),
    ],
)
def test_an_address_is_trusted_if_a_network_has_it(address: str | None, is_trusted: bool) -> None:
    assert PROXIES.trusts(address) is is_trusted
    assert not TrustedProxies().trusts(address)


@pytest.mark.parametrize(
    ("peer", "plain"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:1", "10.0.0.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_one_address_has_one_form(peer: str, plain: str) -> None:
    assert plain_address(peer) == plain


@pytest.mark.parametrize(
    ("peer", "entries", "client"),
    [
        ("9.9.9.9", chain(b"1.1.1.1"), "9.9.9.9"),
        (None, chain(b"1.1.1.1"), None),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", chain(b"1.1.1.1"), "1.1.1.1"),
        ("10.0.0.1", chain(b"6.6.6.6, 1.1.1.1"), "1.1.1.1"),
        ("10.0.0.1", chain(b"6.6.6.6", b"1.1.1.1"), "1.1.1.1"),
        ("10.0.0.1", chain(b"6.6.6.6, 1.1.1.1, 10.0.0.2 ,10.0.0.3"), "1.1.1.1"),
        ("10.0.0.1", chain(b"10.0.0.3, 10.0.0.2"), "10.0.0.3"),
        ("10.0.0.1", chain(b"1.1.1.1, garbage, 10.0.0.2"), "10.0.0.2"),
        ("10.0.0.1", chain(b"1.1.1.1, unknown"), "10.0.0.1"),
        ("10.0.0.1", chain(b"1.1.1.1, unix:"), "10.0.0.1"),
        ("10.0.0.1", chain(b"1.1.1.1,"), "10.0.0.1"),
        ("10.0.0.1", chain(b"\xff\xfe"), "10.0.0.1"),
        ("10.0.0.1", chain(b"1.1.1.1:4711"), "1.1.1.1"),
        ("10.0.0.1", chain(b"1.1.1.1:x"), "10.0.0.1"),
        ("10.0.0.1", chain(b"1.1.1.1:"), "10.0.0.1"),
        ("10.0.0.1", chain(b"[2001:db9::1]:443"), "2001:db9::1"),
        ("10.0.0.1", chain(b"[2001:db9::1]"), "2001:db9::1"),
        ("10.0.0.1", chain(b"[2001:db9::1]x"), "10.0.0.1"),
        ("10.0.0.1", chain(b"2001:DB9::1"), "2001:db9::1"),
        ("10.0.0.1", chain(b"1.1.1.1, 2001:db8::1"), "1.1.1.1"),
        ("10.0.0.1", chain(b"::ffff:1.1.1.1"), "1.1.1.1"),
        ("10.0.0.1", chain(b"1.1.1.1, ::ffff:10.0.0.9"), "1.1.1.1"),
        ("10.0.0.1", chain(b"fe80::1%eth0"), "10.0.0.1"),
        ("::1", chain(b"1.1.1.1"), "1.1.1.1"),
    ],
)
def test_the_client_is_the_last_address_nobody_trusts(peer: str | None, entries: Pairs, client: str | None) -> None:
    assert PROXIES.client_of(peer, [HOST, *entries]) == client


def test_a_list_without_end_is_read_in_part() -> None:
    entries = b", ".join(b"10.0.%d.%d" % divmod(number, 256) for number in range(5000))
    assert PROXIES.client_of("10.0.0.1", chain(entries)) == f"10.0.19.{5000 - MOST_HOPS - 19 * 256}"


def test_what_others_than_trusted_proxies_say_is_dropped() -> None:
    passed = to_replica([HOST, *INVENTED, (b"x-other", b"1")], client="9.9.9.9", scheme="http", is_trusted=False)
    assert passed == [
        HOST,
        (b"x-other", b"1"),
        (b"x-forwarded-for", b"9.9.9.9"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"a:1"),
    ]


def test_what_a_trusted_proxy_says_is_passed_and_added_to() -> None:
    passed = to_replica([HOST, *INVENTED], client="::1", scheme="http", is_trusted=True)
    assert dict(passed) == dict([HOST, *INVENTED]) | {
        b"x-forwarded-for": b"6.6.6.6, ::1",
        b"forwarded": b'for=6.6.6.6, for="[::1]";proto=http',
    }
    assert len(passed) == len(dict(passed))


@pytest.mark.parametrize("name", [b"x_real_ip", b"x_forwarded_for", b"x-forwarded_client-cert", b"x_forwarded-port"])
def test_headers_that_servers_take_for_these_are_refused(name: bytes) -> None:
    with pytest.raises(AmbiguousRequest, match="some servers take"):
        body_length([HOST, (name, b"6.6.6.6")], "1.1")
