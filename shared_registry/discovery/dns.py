"""The addresses of a DNS name, or its SRV records: a headless service, or a zone that something else keeps.

Both A and AAAA records are requested; each address is a replica. If one of the two requests fails, the answer is
partial: what it has is used, and nothing has vanished. A name that does not exist, or has no record, is a failure,
because a server that has just started says the same. Answers that do not fit into a datagram are requested again over
TCP.

A name is requested again after `interval_seconds`, or when its records may be forgotten, whichever is later: before
that a server would give the same answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.discovery.answer import Found, SourceAnswer
from shared_registry.discovery.specs import endpoint_of
from shared_registry.model import ReplicaEndpoint

SYSTEM_FILE = "/etc/resolv.conf"
LOOKUP_SECONDS = 5.0
"""How long all servers together may take for one record."""
LONGEST_TTL_SECONDS = 30.0
"""A longer time to live is not waited for, because few zones mean it."""
LOOKUPS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class _Records:
    """The records of a name of one kind. Without any, `failure` says why; `is_certain` if a server said that."""

    texts: Sequence[str] = ()
    ttl_seconds: float = 0.0
    failure: str = ""
    is_certain: bool = True


class DnsSource:
    """A DNS name."""

    def __init__(self, rule: DiscoveryRule) -> None:
        self._rule = rule
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def answers(self) -> AsyncGenerator[SourceAnswer, None]:
        """See `DiscoverySource`."""
        while True:
            answer, ttl_seconds = await self._ask()
            yield answer
            await asyncio.sleep(max(self._rule.interval_seconds, min(ttl_seconds, LONGEST_TTL_SECONDS)))

    async def _ask(self) -> tuple[SourceAnswer, float]:
        try:
            resolver = self._resolver()
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return SourceAnswer(failure=f"there is no DNS server to ask: {error}"), 0.0
        try:
            ask = self._ask_services if self._rule.record == "srv" else self._ask_addresses
            return await ask(resolver)
        except ValueError as error:
            return SourceAnswer(failure=f"{self._rule.host} has a record that is no replica: {error}"), 0.0

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """Return a new resolver, so that a changed resolv.conf is used."""
        resolver = dns.asyncresolver.Resolver(SYSTEM_FILE, configure=not self._rule.nameservers)
        if self._rule.nameservers:
            pairs = [_server(text) for text in self._rule.nameservers]
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in pairs]
        resolver.lifetime = LOOKUP_SECONDS
        return resolver

    async def _ask_addresses(self, resolver: dns.asyncresolver.Resolver) -> tuple[SourceAnswer, float]:
        records = await self._addresses(resolver, self._rule.host)
        found = [
            Found(endpoint_of(self._rule, address, self._rule.port)) for one in records for address in sorted(one.texts)
        ]
        return _answer(found, records, self._rule.host)

    async def _ask_services(self, resolver: dns.asyncresolver.Resolver) -> tuple[SourceAnswer, float]:
        services = await self._records(resolver, self._rule.host, "SRV")
        if not services.texts:
            return _answer([], [services], self._rule.host)
        targets = [(words[3], int(words[2])) for words in (text.split() for text in services.texts)]
        names = sorted({name for name, _ in targets if name != "."})
        addresses = await asyncio.gather(*(self._addresses(resolver, name) for name in names))
        known = dict(zip(names, addresses, strict=True))
        found: dict[str, ReplicaEndpoint] = {}
        records = [services]
        for name, port in sorted(targets):
            for one in known.get(name, ()):
                for address in sorted(one.texts):
                    endpoint = endpoint_of(self._rule, address, self._rule.port or port)
                    found.setdefault(endpoint.url, endpoint)
        lacking = [
            _Records(failure=f"{name}: {records[0].failure}", is_certain=False)
            for name, records in known.items()
            if not any(one.texts for one in records)
        ]
        records += [one for several in known.values() for one in several] + lacking
        answer, ttl_seconds = _answer([Found(endpoint) for endpoint in found.values()], records, self._rule.host)
        return answer, ttl_seconds

    async def _addresses(self, resolver: dns.asyncresolver.Resolver, name: str) -> list[_Records]:
        return list(await asyncio.gather(*(self._records(resolver, name, kind) for kind in ("A", "AAAA"))))

    async def _records(self, resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> _Records:
        async with self._lookups:
            try:
                answer = await self._resolve(resolver, name, kind)
            except dns.resolver.NXDOMAIN:
                return _Records(failure=f"{name} does not exist")
            except (dns.exception.DNSException, OSError, ValueError) as error:
                text = " ".join(str(error).split())
                return _Records(failure=f"{name} cannot be looked up: {text}", is_certain=False)
        if answer.rrset is None:
            return _Records(failure=f"{name} has no {kind} record")
        return _Records([record.to_text() for record in answer.rrset], float(answer.rrset.ttl))

    async def _resolve(self, resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> dns.resolver.Answer:
        """Return the records of a name, or if there is no such name, of that name in one of the search domains."""
        try:
            return await resolver.resolve(name, kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            if self._rule.nameservers or name.endswith("."):
                raise
            return await resolver.resolve(name, kind, raise_on_no_answer=False, search=True)


def _answer(found: Sequence[Found], records: Sequence[_Records], host: str) -> tuple[SourceAnswer, float]:
    failures = [one.failure for one in records if one.failure]
    is_partial = any(one.failure and not one.is_certain for one in records)
    if not found:
        uncertain = [one.failure for one in records if one.failure and not one.is_certain]
        return SourceAnswer(failure=[*uncertain, *failures, f"{host} has no address"][0]), 0.0
    ttl_seconds = min(one.ttl_seconds for one in records if one.texts)
    return SourceAnswer(tuple(found), is_partial=is_partial), ttl_seconds


def _server(text: str) -> tuple[str, int]:
    """Return the address and the port of a DNS server."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        host, _, port = text.rpartition(":")
        return host.strip("[]"), int(port)
    return text, 53
