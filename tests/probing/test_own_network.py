"""Whose fault it is that a replica cannot be reached: in networks of their own, set up for each test."""

from __future__ import annotations

import os

import pytest

from tests.support import own_network

V4, V6, LOCAL, LOCAL6 = "http://10.1.2.3:9", "http://[2001:db8::7]:9", "http://127.0.0.1:9", "http://[::1]:9"
REFUSED = "ConnectError: connection refused"
UNREACHABLE = "ConnectError: network is unreachable"
NO_ADDRESS = "ConnectError: cannot assign requested address"
SILENT = "timeout after 0.5s while connecting"
OWN = "own: network is unreachable"


@pytest.fixture(scope="module", autouse=True)
def _networks() -> None:
    if not own_network.is_possible():
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail("unshare and ip are needed")
        pytest.skip("needs unshare, ip, and the right to use them")


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        ("nothing", {LOCAL: OWN, V4: OWN}),
        ("loopback", {LOCAL: REFUSED, LOCAL6: REFUSED, V4: OWN, V6: OWN}),
        ("link lost", {LOCAL: REFUSED, V4: OWN, V6: OWN}),
        ("subnet", {LOCAL: REFUSED, V4: UNREACHABLE, V6: UNREACHABLE}),
        ("default route", {LOCAL: REFUSED, V4: SILENT, V6: UNREACHABLE}),
        ("IPv6 only", {LOCAL: REFUSED, V4: UNREACHABLE, V6: SILENT}),
        ("IPv6 subnet", {LOCAL6: REFUSED, V4: UNREACHABLE, V6: UNREACHABLE}),
        ("IPv6 off", {V4: SILENT, LOCAL6: NO_ADDRESS, V6: NO_ADDRESS}),
        ("unreachable", {V4: "ConnectError: no route to host"}),
        ("another table", {V4: SILENT, V6: UNREACHABLE}),
    ],
)
def test_without_any_route_the_trouble_is_the_routers_own(situation: str, expected: dict[str, str]) -> None:
    for found in own_network.run(situation):
        assert {url: found[url] for url in expected} == expected


def test_without_a_local_port_the_trouble_is_the_routers_own() -> None:
    own = "own: cannot assign requested address"
    expected = {"IPv4": own, "IPv6": own, "name": own, "another": "timeout after 0.5s while waiting for the response"}
    assert own_network.run("out of ports") == (expected, expected)
