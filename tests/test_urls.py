"""What a replica's url may be, and that all spellings of one origin are one replica."""

from __future__ import annotations

import ipaddress
import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared_registry.errors import ConfigError
from shared_registry.urls import MAX_URL_LENGTH, canonical_url

CANONICAL = [
    ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
    ("http://10.0.0.1:8000/", "http://10.0.0.1:8000"),
    ("HTTP://Gpu-1.Example.COM:8000", "http://gpu-1.example.com:8000"),
    ("http://a:80", "http://a"),
    ("https://a:443/", "https://a"),
    ("https://a:80", "https://a:80"),
    ("http://a:443", "http://a:443"),
    ("http://a:", "http://a"),
    ("http://a:08000", "http://a:8000"),
    ("http://a_b.c-d", "http://a_b.c-d"),
    ("http://a.example.", "http://a.example."),
    ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example"),
    ("http://gpu1", "http://gpu1"),
    ("http://1gpu", "http://1gpu"),
    ("http://1.2.3.4.example", "http://1.2.3.4.example"),
    ("http://[::1]:8000", "http://[::1]:8000"),
    ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
    ("http://[2001:DB8::00A]", "http://[2001:db8::a]"),
    ("http://[::ffff:10.0.0.1]", "http://[::ffff:10.0.0.1]"),
    ("http://[::ffff:0a00:1]", "http://[::ffff:10.0.0.1]"),
    ("http://a:65535", "http://a:65535"),
]

REFUSED = [
    ("", "empty text"),
    (None, "got NoneType"),
    (b"http://a", "got bytes"),
    (8000, "got int"),
    ("a:8000", "http:// or https://"),
    ("//a:8000", "http:// or https://"),
    ("ws://a:8000", "http:// or https://"),
    ("redis://a:6379", "http:// or https://"),
    ("http:a:8000", "without a path|no host"),
    ("http://", "no host"),
    ("http://:8000", "not host:port"),
    ("http:///path", "no host"),
    ("http://a/v1", "without a path"),
    ("http://a//", "without a path"),
    ("http://a/health?x=1", "without a path"),
    ("http://a?x=1", "query/fragment"),
    ("http://a/#top", "query/fragment"),
    ("http://a?", "query/fragment"),
    ("http://a#", "query/fragment"),
    ("http://a/?", "query/fragment"),
    ("http://user:secret@a", "credentials"),
    ("http://@a", "credentials"),
    ("user:secret@a", "credentials"),
    ("http:///user:secret@a", "credentials"),
    ("http://a?token=secret@b", "credentials"),
    ("http://a?token=secret", "query/fragment"),
    ("http://a/x#secret", "without a path"),
    (" http://a", "white space"),
    ("http://a b", "white space"),
    ("http://a\n", "white space"),
    ("http://a\tb", "white space"),
    ("http://a\x00", "control"),
    ("http://a\x7f", "control"),
    ("http://a\u2028", "white space"),
    ("http://a\u200b", "control"),
    ("http://bücher.example", "xn--"),
    ("http://\u212aube", "xn--"),  # KELVIN SIGN, which lower() turns into k
    ("http://a\u2100", "xn--"),
    ("http://a..b", "host name"),
    ("http://.a", "host name"),
    ("http://-a", "host name"),
    ("http://a-", "host name"),
    ("http://a\\b", "host name"),
    ("http://a%41", "host name"),
    ("http://a;b", "host name"),
    ("http://{a}", "host name"),
    ("http://a:b:1", "not host:port"),
    ("http://a:x", "not host:port"),
    ("http://a:-1", "not host:port"),
    ("http://a:+1", "not host:port"),
    ("http://a:0", "valid port"),
    ("http://a:65536", "valid port"),
    ("http://[::1", "url"),
    ("http://[::1]8000", "url|host:port"),
    ("http://x[::1]", "url|host:port"),
    ("http://[::1%eth0]", "url|host:port"),
    ("http://[g::1]", "url|host:port"),
    ("http://[1:2:3]", "url|IPv6"),
    ("http://[]", "url|host:port"),
    ("http://127.1", "IPv4"),
    ("http://2130706433", "IPv4"),
    ("http://0x7f000001", "IPv4"),
    ("http://127.0.0.01", "IPv4"),
    ("http://256.0.0.1", "IPv4"),
    ("http://1.2.3.4.5", "IPv4"),
    ("http://10.0.0.1.", "IPv4"),
    ("http://" + "a" * MAX_URL_LENGTH, "limit"),
]


@pytest.mark.parametrize(("given_url", "canonical"), CANONICAL)
def test_spellings_have_one_canonical_form(given_url: str, canonical: str) -> None:
    assert canonical_url(given_url) == canonical


@pytest.mark.parametrize(("url", "message"), REFUSED)
def test_anything_but_a_plain_origin_is_refused_without_secrets(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        canonical_url(url, field="replicas[3].url")
    assert str(caught.value).startswith("replicas[3].url: ")
    assert "secret" not in str(caught.value)


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
names = st.builds(
    lambda rest, last: ".".join([*rest, "n" + last]), st.lists(labels, max_size=3), labels
)  # not a number
addresses = st.ip_addresses(v=4).map(str)
addresses6 = st.ip_addresses(v=6)
hosts = st.one_of(names, addresses, addresses6.map(lambda address: f"[{address}]"))
ports = st.one_of(st.none(), st.integers(1, 65535))
schemes = st.sampled_from(["http", "https"])


def origin(scheme: str, host: str, port: int | None) -> str:
    return f"{scheme}://{host}" + ("" if port is None else f":{port}")


@given(scheme=schemes, host=hosts, port=ports)
def test_canonical_form_is_a_fixed_point(scheme: str, host: str, port: int | None) -> None:
    once = canonical_url(origin(scheme, host, port))
    assert canonical_url(once) == once


@given(scheme=schemes, host=names, port=ports, upper=st.booleans(), slash=st.sampled_from(["", "/"]))
def test_case_slash_and_default_port_do_not_matter(
    scheme: str, host: str, port: int | None, upper: bool, slash: str
) -> None:
    plain = origin(scheme, host, port)
    varied = (plain.upper() if upper else plain) + slash
    assert canonical_url(varied) == canonical_url(plain)
    if port is None:
        assert canonical_url(f"{varied.rstrip('/')}:{80 if scheme == 'http' else 443}") == canonical_url(plain)


@given(address=addresses6)
def test_ipv6_spellings_are_one(address: ipaddress.IPv6Address) -> None:
    exploded = canonical_url(f"http://[{address.exploded}]")
    assert exploded == canonical_url(f"http://[{address.exploded.upper()}]") == canonical_url(f"http://[{address}]")
    assert ipaddress.IPv6Address(exploded.removeprefix("http://[").removesuffix("]")) == address


close_calls = st.tuples(
    schemes, st.sampled_from(["na", "na.", "n-a", "n_a", "na.na", "nana"]), st.sampled_from([None, 80, 443, 8080])
)


@given(first=close_calls, second=close_calls)
def test_only_spellings_of_one_origin_are_equal(
    first: tuple[str, str, int | None], second: tuple[str, str, int | None]
) -> None:
    def meaning(parts: tuple[str, str, int | None]) -> tuple[str, str, int]:
        scheme, host, port = parts
        return scheme, host, port or (80 if scheme == "http" else 443)

    assert (canonical_url(origin(*first)) == canonical_url(origin(*second))) == (meaning(first) == meaning(second))


@given(text=st.text(max_size=40), start=st.sampled_from(["http://", "https://", "HTTP://", "http:", ""]))
@example(text="a\x85b", start="http://")
@example(text="user:p\u2100ss@host", start="http://")
@example(text="[::1%0a]", start="http://")
@example(text="ſ", start="http://")
def test_an_accepted_url_is_clean(text: str, start: str) -> None:
    try:
        canonical = canonical_url(start + text)
    except ConfigError:
        return
    assert canonical.isascii()
    assert canonical.isprintable()
    assert canonical == canonical.lower()
    assert not set(canonical) & set(" @?#\\{}%\"'<>")
    assert canonical.startswith(("http://", "https://"))
    assert canonical.count("/") == 2


@given(user=st.text(max_size=8), password=st.text(min_size=4, max_size=12), host=names)
def test_credentials_are_neither_accepted_nor_shown(user: str, password: str, host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        canonical_url(f"http://{user}:pw-{password}@{host}", field="url")
    assert f"pw-{password}" not in str(caught.value)


def test_the_short_way_changes_no_canonical_url(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    parts = [
        "http://",
        "https://",
        "10",
        "0",
        "256",
        "01",
        ".",
        ".",
        "a",
        "-",
        "_",
        "0x1",
        "b9",
        ":8000",
        ":80",
        "A",
        "/",
    ]
    octets, names = ["0", "1", "25", "255", "256", "09", "a"], ["a", "a.b", "a_", "1a", "a.1", "a.", "a-"]
    urls = ["".join(rng.choices(parts, k=rng.randint(2, 10))) for _ in range(30_000)]
    urls += [f"http://{'.'.join(rng.choices(octets, k=4))}:8000" for _ in range(3000)]
    urls += [f"http://{rng.choice(names)}:{port}" for port in range(0, 70_000, 37)]

    def canonical(url: str) -> str:
        try:
            return canonical_url(url)
        except ConfigError as error:
            return str(error)

    short = [canonical(url) for url in urls]
    monkeypatch.setattr("shared_registry.urls._CANONICAL", re.compile("(?!)"))
    assert short == [canonical(url) for url in urls]
    assert sum(one == url for one, url in zip(short, urls, strict=True)) > 2000
