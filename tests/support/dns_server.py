"""A DNS server on loopback, over UDP and TCP, whose records and faults a test sets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

NXDOMAIN, SERVFAIL, SILENT, TRUNCATED, GARBAGE = "NXDOMAIN", "SERVFAIL", "SILENT", "TRUNCATED", "GARBAGE"


class DnsServer(asyncio.DatagramProtocol):
    """Attributes are set by tests at any time.

    Attributes:
        records: The records by name and kind, such as `("replicas.example", "A")`, as texts.
        faults: What the server does to requests in place of an answer, by kind; `*` for all kinds.
        ttl: The time to live of all records.
        requests: The kinds and transports of all requests.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.faults: dict[str, str] = {}
        self.ttl = 0
        self.requests: list[tuple[str, str]] = []
        self.address = ""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._answer(data, "udp")
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = self._answer(await reader.readexactly(size), "tcp")
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    def _answer(self, data: bytes, transport: str) -> bytes | None:
        request = dns.message.from_wire(data)
        question = request.question[0]
        kind, name = dns.rdatatype.to_text(question.rdtype), question.name.to_text(omit_final_dot=True).lower()
        self.requests.append((kind, transport))
        fault = self.faults.get(kind) or self.faults.get("*")
        response = dns.message.make_response(request)
        texts = self.records.get((name, kind), [])
        if fault == SILENT:
            return None
        if fault == GARBAGE:
            return data[:2] + b"\xff" * 40
        if fault == SERVFAIL:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif fault == NXDOMAIN or not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif fault == TRUNCATED and transport == "udp":
            response.flags |= dns.flags.TC
            texts = texts[:1]
        if response.rcode() == dns.rcode.NOERROR and texts:
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *texts))
        return response.to_wire()


@contextlib.asynccontextmanager
async def dns_server(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[DnsServer]:
    """Run a server on loopback, on a free port by default."""
    server = DnsServer()
    stream = await asyncio.start_server(server.serve_stream, host, port)
    port = stream.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, local_addr=(host, port))
    server.address = f"{host}:{port}"
    try:
        yield server
    finally:
        transport.close()
        stream.close()
