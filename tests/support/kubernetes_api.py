"""An API server of Kubernetes on loopback, as far as EndpointSlices go: what it says is what its documentation shows.

It speaks HTTP/1.1 over TLS. A list has `items` and a resourceVersion, in pages if a limit is given. A watch is a
response in chunks, with one JSON object a line: ADDED, MODIFIED, DELETED, BOOKMARK, or ERROR with a Status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
LABEL = "kubernetes.io/service-name"


def endpoint(address: str, *, name: str = "", **conditions: bool | None) -> Json:
    """Return an endpoint; without conditions it is ready."""
    made: Json = {"addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False}}
    made["conditions"] |= conditions
    if name:
        made["targetRef"] = {"kind": "Pod", "name": name, "namespace": "models"}
    return made


class KubernetesApi:
    """Attributes are set by tests at any time.

    Attributes:
        token: The token that requests must have.
        refuses: A status with which all requests are refused; 0 for none.
        says: What a list answers instead of what there is, if it is not empty.
        breaks: Whether a list is cut off in the middle.
        chunk_bytes: The size of the chunks of a watch.
        requests: The paths and queries of all requests.
        watching: How many watches there are.
    """

    def __init__(self) -> None:
        self.token = "first"
        self.refuses = 0
        self.says = b""
        self.breaks = False
        self.chunk_bytes = 7
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.watching = 0
        self.port = 0
        self._version = 1000
        self._oldest = 1000
        self._slices: dict[str, Json] = {}
        self._events: list[tuple[int, Json]] = []
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ended = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def put(
        self, name: str, *endpoints: Json, service: str = "replicas", ports: Any = None, kind: str = "IPv4"
    ) -> None:
        """Create a slice, or replace it."""
        self._version += 1
        made = {
            "metadata": {
                "name": name,
                "namespace": "models",
                "labels": {LABEL: service},
                "resourceVersion": str(self._version),
            },
            "addressType": kind,
            "endpoints": list(endpoints),
            "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}] if ports is None else ports,
        }
        what = "MODIFIED" if name in self._slices else "ADDED"
        self._slices[name] = made  # before anything is awaited: a list of this version has it
        await self._happened(what, made)

    def slice_of(self, name: str) -> Json:
        """Return a slice as a list has it."""
        return self._slices[name]

    async def delete(self, name: str) -> None:
        self._version += 1
        gone = self._slices.pop(name)
        gone["metadata"]["resourceVersion"] = str(self._version)
        await self._happened("DELETED", gone)

    async def bookmark(self) -> None:
        self._version += 10
        await self._happened(
            "BOOKMARK", {"metadata": {"resourceVersion": str(self._version), "labels": {LABEL: "replicas"}}}
        )

    async def end_watches(self) -> None:
        """End the watches that there are as if their time was over, after what has happened until now."""
        async with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def forget(self) -> None:
        """Forget all versions up to now, as etcd does when it is compacted."""
        self._version += 1
        self._oldest = self._version
        self._events.clear()

    def cut(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _happened(self, kind: str, item: Json) -> None:
        async with self._changed:
            self._events.append((self._version, {"type": kind, "object": json.loads(json.dumps(item))}))
            self._changed.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not await self._respond(head.decode(), writer):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _respond(self, head: str, writer: asyncio.StreamWriter) -> bool:
        first, *fields = head.split("\r\n")
        target = urlsplit(first.split(" ")[1])
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        self.requests.append((target.path, query))
        headers = {name.lower(): text for name, _, text in (field.partition(": ") for field in fields)}
        if self.refuses:
            return self._send(writer, self.refuses, self._status(self.refuses, "refused"))
        if headers.get("authorization") != f"Bearer {self.token}":
            return self._send(writer, 401, self._status(401, "Unauthorized"))
        if target.path != "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices":
            return self._send(writer, 404, self._status(404, "the server could not find the requested resource"))
        if query.get("watch"):
            await self._watch(writer, query)
            return True
        return self._list(writer, query)

    def _status(self, code: int, message: str) -> Json:
        reason = {401: "Unauthorized", 403: "Forbidden", 410: "Expired"}.get(code, "InternalError")
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }

    def _chosen(self, query: dict[str, str]) -> list[Json]:
        name, _, value = query["labelSelector"].partition("=")
        return [one for one in self._slices.values() if one["metadata"]["labels"].get(name) == value]

    def _list(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> bool:
        chosen, begin = self._chosen(query), int(query.get("continue") or 0)
        limit = int(query.get("limit") or 500)
        if self.says:
            return self._send_bytes(writer, 200, self.says)
        metadata: Json = {"resourceVersion": str(self._version)}
        if begin + limit < len(chosen):
            metadata |= {"continue": str(begin + limit), "remainingItemCount": len(chosen) - begin - limit}
        page = {
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata,
            "items": chosen[begin : begin + limit],
        }
        return self._send(writer, 200, page)

    def _send(self, writer: asyncio.StreamWriter, status: int, body: Json) -> bool:
        return self._send_bytes(writer, status, json.dumps(body).encode())

    def _send_bytes(self, writer: asyncio.StreamWriter, status: int, content: bytes) -> bool:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + (content[: len(content) // 2] if self.breaks else content))
        return not self.breaks

    async def _watch(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        seen = int(query["resourceVersion"])
        name, _, value = query["labelSelector"].partition("=")
        self.watching += 1
        try:
            if seen < self._oldest:
                status = self._status(410, f"too old resource version: {seen} ({self._oldest})")
                self._send_line(writer, {"type": "ERROR", "object": status})
                writer.write(b"0\r\n\r\n")
                return
            deadline = asyncio.get_running_loop().time() + float(query.get("timeoutSeconds", 240))
            begun = self._ended
            while asyncio.get_running_loop().time() < deadline and not writer.is_closing():
                is_over = self._ended != begun
                for version, event in list(self._events):
                    if version > seen and event["object"]["metadata"]["labels"].get(name) == value:
                        self._send_line(writer, event)
                        seen = version
                await writer.drain()
                if is_over:
                    break
                async with self._changed:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), 0.05)
            writer.write(b"0\r\n\r\n")
        finally:
            self.watching -= 1

    def _send_line(self, writer: asyncio.StreamWriter, event: Json) -> None:
        content = json.dumps(event).encode() + b"\n"
        for at in range(0, len(content), self.chunk_bytes):
            chunk = content[at : at + self.chunk_bytes]
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")


@contextlib.asynccontextmanager
async def kubernetes_api(context: ssl.SSLContext) -> AsyncIterator[KubernetesApi]:
    """Run a server on a free port of loopback."""
    api = KubernetesApi()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0, ssl=context)
    api.port = server.sockets[0].getsockname()[1]
    try:
        yield api
    finally:
        server.close()
        api.cut()
