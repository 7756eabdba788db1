"""What a DNS name answers: all its addresses, or why they are not known."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config.discovery_rules import DiscoveryRule, check_discovery
from shared_registry.discovery import SourceAnswer
from shared_registry.discovery.dns import DnsSource
from tests.support.dns_server import GARBAGE, NXDOMAIN, SERVFAIL, SILENT, TRUNCATED, DnsServer, dns_server
from tests.support.until import SECONDS

NAME = "replicas.example"


@pytest.fixture
async def names() -> AsyncIterator[DnsServer]:
    async with dns_server() as server:
        server.records = {(NAME, "A"): ["127.0.0.2", "127.0.0.1"], (NAME, "AAAA"): ["::1"]}
        yield server


def rule(server: DnsServer, **keys: Any) -> DiscoveryRule:
    given = {"kind": "dns", "name": "pods", "host": NAME, "port": 8000, "nameservers": [server.address], **keys}
    (checked,) = check_discovery([given])
    return checked


async def ask(server: DnsServer, **keys: Any) -> SourceAnswer:
    async with contextlib.aclosing(DnsSource(rule(server, **keys)).answers()) as answers:
        return await anext(answers)


def urls(answer: SourceAnswer) -> list[str]:
    return [one.endpoint.url for one in answer.found]


async def test_each_address_of_a_name_is_a_replica(names: DnsServer) -> None:
    answer = await ask(names, scheme="https", capacity=3, weight=2, labels={"zone": "a"})
    assert urls(answer) == ["https://127.0.0.1:8000", "https://127.0.0.2:8000", "https://[::1]:8000"]
    for one in answer.found:
        spec = one.endpoint
        assert (spec.capacity, spec.weight, dict(spec.labels), spec.primary) == (3, 2.0, {"zone": "a"}, True)
    assert not answer.failure
    assert not answer.is_partial


async def test_a_name_may_have_addresses_of_one_kind(names: DnsServer) -> None:
    del names.records[NAME, "AAAA"]
    answer = await ask(names)
    assert urls(answer) == ["http://127.0.0.1:8000", "http://127.0.0.2:8000"]
    assert not answer.is_partial


@pytest.mark.parametrize("fault", [SERVFAIL, GARBAGE])
async def test_half_an_answer_is_partial(names: DnsServer, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == GARBAGE:
        monkeypatch.setattr("shared_registry.discovery.dns.LOOKUP_SECONDS", 0.5)
    names.faults["AAAA"] = fault
    source = DnsSource(rule(names, interval_seconds=0.1))
    async with asyncio.timeout(SECONDS), contextlib.aclosing(source.answers()) as answers:
        while (answer := await anext(answers)).failure:  # a pause of this machine takes the time of both halves
            assert fault == GARBAGE
    assert urls(answer) == ["http://127.0.0.1:8000", "http://127.0.0.2:8000"]
    assert answer.is_partial


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (NXDOMAIN, f"{NAME} does not exist"),
        (SERVFAIL, f"{NAME} cannot be looked up"),
        (SILENT, f"{NAME} cannot be looked up"),
        (GARBAGE, f"{NAME} cannot be looked up"),
    ],
)
async def test_a_name_that_is_not_known_is_a_failure(
    names: DnsServer, monkeypatch: pytest.MonkeyPatch, fault: str, failure: str
) -> None:
    if fault in (SILENT, GARBAGE):
        monkeypatch.setattr("shared_registry.discovery.dns.LOOKUP_SECONDS", 0.5)
    names.faults["*"] = fault
    answer = await ask(names)
    assert answer.failure.startswith(failure)
    assert not answer.found


async def test_a_name_without_addresses_is_a_failure(names: DnsServer) -> None:
    names.records = {(NAME, "TXT"): ['"x"']}
    assert (await ask(names)).failure == f"{NAME} has no A record"


async def test_a_truncated_answer_is_requested_over_tcp(names: DnsServer) -> None:
    names.records[NAME, "A"] = [f"127.0.0.{number}" for number in range(1, 251)]
    names.faults["A"] = TRUNCATED
    answer = await ask(names)
    assert len(answer.found) == 251
    assert ("A", "tcp") in names.requests


@pytest.mark.skipif(os.geteuid() != 0, reason="a resolv.conf names servers at port 53 only")
@pytest.mark.parametrize("host", ["replicas.models", "replicas.models.svc.cluster.local"])
async def test_the_systems_search_domains_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    address = f"127.77.{os.getpid() % 250}.53"
    (tmp_path / "resolv.conf").write_text(f"search models.svc.cluster.local svc.cluster.local\nnameserver {address}\n")
    monkeypatch.setattr("shared_registry.discovery.dns.SYSTEM_FILE", str(tmp_path / "resolv.conf"))
    async with dns_server(address, 53) as names:
        names.records = {("replicas.models.svc.cluster.local", "A"): ["127.0.0.1"]}
        (checked,) = check_discovery([{"kind": "dns", "name": "pods", "host": host, "port": 8000}])
        async with contextlib.aclosing(DnsSource(checked).answers()) as answers:
            answer = await anext(answers)
    assert urls(answer) == ["http://127.0.0.1:8000"]
    assert not answer.is_partial


async def test_srv_records_bring_their_ports(names: DnsServer) -> None:
    names.records = {
        (NAME, "SRV"): ["0 0 8001 a.example.", "0 0 8002 b.example."],
        ("a.example", "A"): ["127.0.0.1"],
        ("b.example", "A"): ["127.0.0.1"],
    }
    assert urls(await ask(names, record="srv", port=None)) == ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
    assert urls(await ask(names, record="srv", port=9)) == ["http://127.0.0.1:9"]


async def test_all_of_many_srv_records_count(names: DnsServer) -> None:
    """As many as an answer can have: servers say them in any order, so none may be left out."""
    ports = range(8000, 9800)
    names.records = {(NAME, "SRV"): [f"0 0 {port} a." for port in ports], ("a", "A"): ["127.0.0.1"]}
    assert urls(await ask(names, record="srv", port=None)) == [f"http://127.0.0.1:{port}" for port in ports]


async def test_an_srv_target_without_address_makes_the_answer_partial(names: DnsServer) -> None:
    names.records = {
        (NAME, "SRV"): ["0 0 8001 a.example.", "0 0 8002 b.example."],
        ("a.example", "A"): ["127.0.0.1"],
    }
    answer = await ask(names, record="srv", port=None)
    assert urls(answer) == ["http://127.0.0.1:8001"]
    assert answer.is_partial


async def test_an_srv_record_without_a_port_is_a_failure(names: DnsServer) -> None:
    names.records = {(NAME, "SRV"): ["0 0 0 a.example.", "0 0 8002 a.example."], ("a.example", "A"): ["127.0.0.1"]}
    answer = await ask(names, record="srv", port=None)
    assert "0 is not a valid port" in answer.failure
    assert not answer.found


async def test_a_dead_dns_server_is_a_failure(names: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_registry.discovery.dns.LOOKUP_SECONDS", 0.5)
    given = {"kind": "dns", "name": "pods", "host": NAME, "port": 1, "nameservers": ["127.0.0.1:9"]}
    async with contextlib.aclosing(DnsSource(check_discovery([given])[0]).answers()) as answers:
        assert "cannot be looked up" in (await anext(answers)).failure
