"""The endpoints of a Kubernetes service: its EndpointSlices are listed, then watched.

The API server is asked over HTTPS with the token of the pod's service account, which is read anew for each request
because Kubernetes replaces it. A list gives all slices and a resourceVersion; the watch goes on from there, and
bookmarks move the version on. A watch that ends is begun again from the last version. If the server has forgotten that
version (410 Gone), or after `RESYNC_SECONDS`, everything is listed anew. What a list does not have, or a watch has
deleted, is listed again before it counts as missing a second time.

Each answer has all endpoints of all slices. An endpoint that two slices have counts once, by the better of both. A pod
with an address of each kind counts once, at its IPv4 address. If some slices lack the port, the answer is partial: pods
that were made wrongly do not keep the others from draining.
Terminating endpoints drain, and so do those that are not ready. New endpoints are registered when they are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from shared_registry.aio.backoff import Backoff
from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.config.rules import MAX_NAME_LENGTH
from shared_registry.discovery.answer import Found, SourceAnswer
from shared_registry.discovery.specs import endpoint_of

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RESYNC_SECONDS = 300.0
WATCH_SECONDS = 240
"""How long the server keeps one watch."""
SILENCE_SECONDS = 90.0
"""A watch without a word for so long is dead: the server sends a bookmark about every minute."""
REQUEST_SECONDS = 10.0
LIST_SECONDS = 60.0
"""How long a list of all slices may take, with all its pages."""
PAGE = 500
MOST_LINE_BYTES = 16 * 1024 * 1024
LONGEST_PAUSE_SECONDS = 30.0
_TOKEN = re.compile(r"[!-~]+")
_READY, _NOT_READY, _TERMINATING = 2, 1, 0

Slice = Mapping[str, Any]


class GoneError(Exception):
    """The server has forgotten the version from which a watch should go on."""


class KubernetesError(Exception):
    """The server gave no answer that can be used. The text is for operators."""


class KubernetesSource:
    """The EndpointSlices of one service."""

    def __init__(self, rule: DiscoveryRule, *, rng: random.Random | None = None) -> None:
        self._rule = rule
        self._rng = rng or random.Random()
        self._slices: dict[str, Slice] = {}
        self._version = ""

    async def answers(self) -> AsyncGenerator[SourceAnswer, None]:
        """See `DiscoverySource`."""
        backoff = Backoff(first_seconds=0.2, longest_seconds=LONGEST_PAUSE_SECONDS, rng=self._rng)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with self._client() as client, contextlib.aclosing(self._follow(client)) as followed:
                    async for answer in followed:
                        yield answer
            except GoneError:
                pass  # everything is listed anew
            except (KubernetesError, httpx.HTTPError, OSError, ssl.SSLError) as error:
                yield SourceAnswer(failure=_text(error))
            except Exception as error:  # noqa: BLE001  whatever a server says, the replicas stay
                yield SourceAnswer(failure=f"the API server's answer cannot be read: {_text(error)}")
            if loop.time() - began > LONGEST_PAUSE_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next_seconds())

    async def _follow(self, client: httpx.AsyncClient) -> AsyncGenerator[SourceAnswer, None]:
        """List, then watch until it is time to list again."""
        loop = asyncio.get_running_loop()
        await self._list(client)
        before = self._answer()
        yield before
        listed_at = loop.time()
        changes: asyncio.Queue[None] = asyncio.Queue(1)
        watch = asyncio.ensure_future(self._watch(client, changes))
        missing_answers = 2  # what was listed now may lack what was there before, so the next answer lists again
        try:
            while loop.time() - listed_at < RESYNC_SECONDS:
                change = asyncio.ensure_future(changes.get())
                await asyncio.wait(
                    (watch, change), timeout=self._rule.interval_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                is_changed = change.done()
                change.cancel()
                if watch.done():
                    watch.result()
                    return
                answer = self._answer()
                gone = {one.endpoint.url for one in before.found} - {one.endpoint.url for one in answer.found}
                missing_answers = 6 if gone else max(missing_answers - (not is_changed), 0)
                before = answer
                if missing_answers and not is_changed:
                    # The server itself has to say again that something is missing.
                    await self._confirm(client)
                    before = answer = self._answer()
                yield answer
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _confirm(self, client: httpx.AsyncClient) -> None:
        """List beside the running watch, which stays as it is; what it has said since counts more."""
        before = self._slices
        slices, _ = await self._listed(client)
        if self._slices is before:
            self._slices = slices

    async def _list(self, client: httpx.AsyncClient) -> None:
        self._slices, self._version = await self._listed(client)

    async def _listed(self, client: httpx.AsyncClient) -> tuple[dict[str, Slice], str]:
        try:
            async with asyncio.timeout(LIST_SECONDS):
                return await self._all_pages(client)
        except TimeoutError:
            raise KubernetesError(f"the list has not ended after {LIST_SECONDS:g} s") from None

    async def _all_pages(self, client: httpx.AsyncClient) -> tuple[dict[str, Slice], str]:
        found: dict[str, Slice] = {}
        following = ""
        while True:
            more = {"continue": following} if following else {}
            response = await client.get(
                self._path(), params={**self._selector(), "limit": str(PAGE), **more}, headers=self._headers()
            )
            if response.status_code == httpx.codes.GONE and not following:
                raise KubernetesError("the API server answered 410 to a list from its beginning")
            _check(response.status_code, response.text)
            page = response.json()
            for item in page.get("items") or ():
                found[_name(item)] = item
            metadata = page["metadata"]
            following = metadata.get("continue") or ""
            if not following:
                return found, str(metadata["resourceVersion"])

    async def _watch(self, client: httpx.AsyncClient, changes: asyncio.Queue[None]) -> None:
        """Keep the slices up to date; end when a list is needed.

        Raises:
            GoneError: The version is forgotten.
        """
        while True:
            params = {
                **self._selector(),
                "watch": "1",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
                "resourceVersion": self._version,
            }
            timeout = httpx.Timeout(REQUEST_SECONDS, read=SILENCE_SECONDS)
            began = asyncio.get_running_loop().time()
            async with client.stream(
                "GET", self._path(), params=params, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status_code != httpx.codes.OK:
                    _check(response.status_code, (await response.aread()).decode(errors="replace"))
                async for line in _lines(response):
                    if self._take(json.loads(line)) and changes.empty():
                        changes.put_nowait(None)
            if asyncio.get_running_loop().time() - began < 1.0:
                await asyncio.sleep(1.0)  # a server that ends each watch at once

    def _take(self, event: Mapping[str, Any]) -> bool:
        """Take one event of the watch; return whether a slice changed."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            _check(int(item.get("code") or 0), json.dumps(item))
            raise KubernetesError(f"the watch failed: {item.get('message') or item}")
        version = str(item["metadata"]["resourceVersion"])
        if kind == "BOOKMARK":
            self._version = version
            return False
        slices = dict(self._slices)
        if kind == "DELETED":
            slices.pop(_name(item), None)
        elif kind in ("ADDED", "MODIFIED"):
            slices[_name(item)] = item
        else:
            return False
        self._slices, self._version = slices, version
        return True

    def _answer(self) -> SourceAnswer:
        if not self._slices:
            return SourceAnswer(failure=f"service {self._rule.service} has no EndpointSlice; does it exist?")
        found: dict[str, tuple[int, Found]] = {}
        failure = ""
        has_ipv4 = {_pod(endpoint) for item in self._slices.values() for endpoint in _of_kind(item, "IPv4")} - {""}
        for item in self._slices.values():
            endpoints = item.get("endpoints") or ()
            if item.get("addressType") not in ("IPv4", "IPv6") or not endpoints:
                continue
            if not (port := self._port(item)):
                failure = f"EndpointSlice {_name(item)} has no port named {self._rule.port}"
                continue
            for endpoint in endpoints:
                if item["addressType"] == "IPv6" and _pod(endpoint) in has_ipv4:
                    continue
                rank, one = _found(self._rule, endpoint, port)
                known = found.get(one.endpoint.url)
                if known is None or known[0] < rank:
                    found[one.endpoint.url] = (rank, one)
        if not found:
            return SourceAnswer(failure=failure)
        return SourceAnswer(tuple(one for _, one in found.values()), is_partial=bool(failure))

    def _port(self, item: Slice) -> int:
        """Return the port of a slice's endpoints: a number, or what the slice has under the port's name; 0 for none."""
        wanted = self._rule.port
        if isinstance(wanted, int):
            return wanted
        ports = item.get("ports") or ()
        return next((int(one["port"]) for one in ports if (one.get("name") or "") == wanted and one.get("port")), 0)

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": f"kubernetes.io/service-name={self._rule.service}"}

    def _path(self) -> str:
        namespace = self._rule.namespace or _read(ACCOUNT / "namespace")
        return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    def _headers(self) -> dict[str, str]:
        file = self._rule.token_file or ("" if self._rule.server else str(ACCOUNT / "token"))
        if not file:
            return {}
        token = _read(Path(file))
        if not _TOKEN.fullmatch(token):
            raise KubernetesError(f"token_file: {file} has no token: one line of ASCII without white space")
        return {"Authorization": f"Bearer {token}"}

    def _client(self) -> httpx.AsyncClient:
        server = self._rule.server
        if not server:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise KubernetesError("KUBERNETES_SERVICE_HOST is not set; outside of a cluster set `server`")
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        file = self._rule.ca_file or ("" if self._rule.server else str(ACCOUNT / "ca.crt"))
        trust = ssl.create_default_context(cafile=file or None)
        return httpx.AsyncClient(base_url=server, verify=trust, timeout=REQUEST_SECONDS, trust_env=False)


def _of_kind(item: Slice, kind: str) -> Sequence[Mapping[str, Any]]:
    """Return the endpoints of a slice whose addresses are of that kind."""
    return item.get("endpoints") or () if item.get("addressType") == kind else ()


def _pod(endpoint: Mapping[str, Any]) -> str:
    """Return what identifies the pod of an endpoint; empty if the slice does not say."""
    target = endpoint.get("targetRef") or {}
    return str(target.get("uid") or target.get("name") or "")


def _found(rule: DiscoveryRule, endpoint: Mapping[str, Any], port: int) -> tuple[int, Found]:
    """Return an endpoint, and how far it is in service."""
    conditions = endpoint.get("conditions") or {}
    name = endpoint.get("hostname") or (endpoint.get("targetRef") or {}).get("name")
    if isinstance(name, str) and len(name) > MAX_NAME_LENGTH:
        name = None  # a pod's name may have 253 characters
    spec = endpoint_of(rule, endpoint["addresses"][0], port, name=name or None)
    if conditions.get("terminating"):
        return _TERMINATING, Found(spec, "terminating", is_new_welcome=False)
    if conditions.get("ready") is False:
        return _NOT_READY, Found(spec, "not ready", is_new_welcome=False)
    return _READY, Found(spec)


def _check(status: int, text: str) -> None:
    """Refuse a response that is no success."""
    if status == httpx.codes.GONE:
        raise GoneError
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise KubernetesError(f"the API server refuses ({status}): may this account list and watch endpointslices?")
    if status != httpx.codes.OK:
        raise KubernetesError(f"the API server answered {status}: {' '.join(text[:200].split())}")


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of a stream; a line may come in many pieces. The rest of a stream that was cut off is no line."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MOST_LINE_BYTES:
            raise KubernetesError(f"the watch sent a line of more than {MOST_LINE_BYTES} bytes")
        for line in lines:
            if line.strip():
                yield line.decode()


def _name(item: Slice) -> str:
    return str(item["metadata"]["name"])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _text(error: Exception) -> str:
    return (
        " ".join(f"{type(error).__name__}: {error}".split()) if not isinstance(error, KubernetesError) else str(error)
    )
