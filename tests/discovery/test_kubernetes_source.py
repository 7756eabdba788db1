"""What the EndpointSlices of a service answer, from an API server over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config.discovery_rules import check_discovery
from shared_registry.discovery import SourceAnswer, kubernetes
from shared_registry.discovery.kubernetes import KubernetesSource
from tests.support.certificates import Authority
from tests.support.kubernetes_api import KubernetesApi, endpoint, kubernetes_api

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"
Answers = AsyncGenerator[SourceAnswer, None]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[KubernetesApi]:
    authority = Authority(tmp_path)
    (tmp_path / "token").write_text("first\n")
    async with kubernetes_api(authority.server()) as api:
        await api.put("replicas-abc", endpoint(A, name="pod-a"), endpoint(B, name="pod-b"))
        await api.put("others-abc", endpoint("127.0.0.9"), service="others")
        yield api


@pytest.fixture
async def ask(api: KubernetesApi, tmp_path: Path) -> AsyncIterator[Callable[..., Answers]]:
    async with contextlib.AsyncExitStack() as stack:

        def ask(**keys: Any) -> Answers:
            given: dict[str, Any] = {
                "kind": "kubernetes",
                "name": "pods",
                "service": "replicas",
                "port": "http",
                "namespace": "models",
            }
            given |= {"server": api.url, "ca_file": str(tmp_path / "authority.pem"), "interval_seconds": 0.1}
            given |= {"token_file": str(tmp_path / "token")} | keys
            answers = KubernetesSource(check_discovery([given])[0]).answers()
            stack.push_async_callback(answers.aclose)
            return answers

        yield ask


async def answer_with(answers: Answers, condition: Callable[[SourceAnswer], object]) -> SourceAnswer:
    async with asyncio.timeout(30):
        async for answer in answers:
            if condition(answer):
                return answer
    raise AssertionError("the source has ended")


def urls(answer: SourceAnswer) -> list[str]:
    return sorted(one.endpoint.url for one in answer.found)


def has(*addresses: str, port: int = 8000) -> Callable[[SourceAnswer], bool]:
    return lambda answer: urls(answer) == [f"http://{address}:{port}" for address in addresses]


async def test_endpoints_of_all_slices_are_replicas(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    await api.put("replicas-def", endpoint(C), endpoint(B))
    await api.put("replicas-six", endpoint("::1"), kind="IPv6")
    await api.put("replicas-name", endpoint("pods.example"), kind="FQDN")
    answer = await anext(ask())
    assert not answer.failure
    assert urls(answer) == [
        "http://127.0.0.1:8000",
        "http://127.0.0.2:8000",
        "http://127.0.0.3:8000",
        "http://[::1]:8000",
    ]
    assert {one.endpoint.name for one in answer.found} == {"pod-a", "pod-b", None}
    assert "http://127.0.0.1:9" in urls(await anext(ask(port=9)))


async def test_a_watch_brings_each_change(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await answer_with(answers, lambda _: api.watching == 1)
    await api.put("replicas-abc", endpoint(A), endpoint(B), endpoint(C))
    await answer_with(answers, has(A, B, C))
    await api.put("replicas-abc", endpoint(A), endpoint(C))
    await answer_with(answers, has(A, C))
    await api.put("replicas-def", endpoint(B))
    await answer_with(answers, has(A, B, C))
    await api.delete("replicas-def")
    await answer_with(answers, has(A, C))
    assert sum("watch" in query for _, query in api.requests) == 1


@pytest.mark.parametrize(
    ("conditions", "draining"),
    [
        ({"terminating": True, "ready": False}, "terminating"),
        ({"terminating": True, "ready": True}, "terminating"),
        ({"ready": False}, "not ready"),
        ({"ready": None, "serving": None, "terminating": None}, ""),
    ],
)
async def test_conditions_say_whether_an_endpoint_drains(
    api: KubernetesApi, ask: Callable[..., Answers], conditions: dict[str, Any], draining: str
) -> None:
    await api.put("replicas-abc", endpoint(A, **conditions))
    answer = await answer_with(ask(), has(A))
    (one,) = answer.found
    assert (one.draining, one.is_new_welcome) == (draining, not draining)


async def test_an_endpoint_in_two_slices_counts_by_the_better(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    await api.put("replicas-abc", endpoint(A, ready=False), endpoint(B))
    await api.put("replicas-def", endpoint(A), endpoint(B, terminating=True))
    answer = await answer_with(ask(), has(A, B))
    assert [one.draining for one in answer.found] == ["", ""]


async def test_a_pod_with_addresses_of_both_kinds_counts_once(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    await api.put("replicas-abc", endpoint(A, name="pod-a"), endpoint(B))
    await api.put(
        "replicas-six", endpoint("::1", name="pod-a"), endpoint("::2", name="pod-c"), endpoint("::3"), kind="IPv6"
    )
    answer = await anext(ask())
    assert urls(answer) == [f"http://{host}:8000" for host in (A, B, "[::2]", "[::3]")]


async def test_a_service_with_many_slices_comes_in_pages(
    api: KubernetesApi, ask: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 2)
    for number in range(3, 10):
        await api.put(f"replicas-{number}", endpoint(f"127.0.0.{number}"))
    assert len((await anext(ask())).found) == 9


async def test_a_forgotten_version_is_listed_anew(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await answer_with(answers, lambda _: api.watching == 1)
    await api.put("replicas-abc", endpoint(A), endpoint(C))
    api.forget()
    api.cut()
    await answer_with(answers, has(A, C))


async def test_a_watch_goes_on_from_its_last_bookmark(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await answer_with(answers, lambda _: api.watching == 1)
    await api.bookmark()
    await api.end_watches()

    def watched_from() -> list[str]:
        return [query["resourceVersion"] for _, query in api.requests if "watch" in query]

    await answer_with(answers, lambda _: len(watched_from()) >= 2)
    assert int(watched_from()[1]) >= int(watched_from()[0]) + 10
    assert sum("watch" not in query for _, query in api.requests) == 2


async def test_broken_connections_are_made_anew(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await answer_with(answers, lambda _: api.watching == 1)
    api.cut()
    assert (await answer_with(answers, lambda answer: answer.failure)).failure
    await api.put("replicas-abc", endpoint(A), endpoint(C))
    await answer_with(answers, has(A, C))


async def test_a_renewed_token_is_used(api: KubernetesApi, ask: Callable[..., Answers], tmp_path: Path) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    api.token = "second"
    api.cut()
    failed = await answer_with(answers, lambda answer: "refuses (401)" in answer.failure)
    assert "this account" in failed.failure
    (tmp_path / "token").write_text("second\n")
    await answer_with(answers, has(A, B))


@pytest.mark.parametrize("status", [410, 403, 429, 500, 503])
async def test_a_server_that_refuses_is_a_failure(api: KubernetesApi, ask: Callable[..., Answers], status: int) -> None:
    api.refuses = status
    assert str(status) in (await anext(ask())).failure


async def test_a_list_that_is_cut_off_is_a_failure(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    api.breaks = True
    answer = await anext(ask())
    assert answer.failure
    assert not answer.found


def listed(**slice_parts: Any) -> bytes:
    item = {"metadata": {"name": "a", "resourceVersion": "1"}, "addressType": "IPv4", **slice_parts}
    one = {"ports": [{"name": "http", "port": 8000}], "endpoints": [{"addresses": [A]}], **item}
    return json.dumps({"metadata": {"resourceVersion": "1"}, "items": [one]}).encode()


@pytest.mark.parametrize(
    "text",
    [
        listed(endpoints=[{"addresses": []}]),
        listed(endpoints=[{"addresses": None}]),
        listed(endpoints=[{"addresses": ["fe80::1%eth0"]}], addressType="IPv6"),
        listed(endpoints=[{"addresses": [A], "hostname": {"a": 1}}]),
        listed(ports=[{"name": "http", "port": 99_999}]),
        listed(ports=[{"name": "http", "port": -1}]),
        listed(ports=[{"name": "http", "port": float("inf")}]),
        b"[" * 100_000,
        b"{",
        b"null",
        b"<html>",
        b"\xff",
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_failure(
    api: KubernetesApi, ask: Callable[..., Answers], text: bytes
) -> None:
    api.says = text
    answers = ask()
    answer = await anext(answers)
    assert "cannot be read" in answer.failure
    assert not answer.found
    api.says = b""
    await answer_with(answers, has(A, B))


async def test_a_watch_that_makes_no_sense_is_a_failure(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await api.put("replicas-abc", {"addresses": []})
    assert "cannot be read" in (await answer_with(answers, lambda one: one.failure)).failure


@pytest.mark.parametrize("text", ["first\nhunter2", "hunter2\x00", "hunter2 é", "", "\n"])
async def test_what_is_no_token_is_not_shown(
    api: KubernetesApi, ask: Callable[..., Answers], tmp_path: Path, text: str
) -> None:
    (tmp_path / "token").write_text(text)
    failure = (await anext(ask())).failure
    assert "token_file" in failure
    assert "hunter2" not in failure


async def test_a_list_without_end_is_a_failure(
    api: KubernetesApi, ask: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.discovery.kubernetes.LIST_SECONDS", 0.3)
    api.says = json.dumps({"metadata": {"resourceVersion": "1", "continue": "0"}, "items": []}).encode()
    assert "0.3 s" in (await anext(ask())).failure


async def test_a_service_without_slices_is_a_failure(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    assert "has no EndpointSlice" in (await anext(ask(service="missing"))).failure


async def test_a_port_that_no_slice_has_is_a_failure(api: KubernetesApi, ask: Callable[..., Answers]) -> None:
    assert "has no port named grpc" in (await anext(ask(port="grpc"))).failure


async def test_a_slice_without_the_port_makes_the_answer_partial(
    api: KubernetesApi, ask: Callable[..., Answers]
) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await api.put("replicas-abc", endpoint(A), endpoint(B, terminating=True))
    await api.put("replicas-def", endpoint(C), ports=[])  # of pods that lack the port
    answer = await answer_with(answers, lambda answer: answer.is_partial or answer.failure)
    assert [(one.endpoint.url, one.draining) for one in answer.found] == [
        (f"http://{A}:8000", ""),
        (f"http://{B}:8000", "terminating"),
    ]
    assert not answer.failure


async def test_a_server_with_another_authority_is_refused(
    api: KubernetesApi, ask: Callable[..., Answers], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    assert "certificate" in (await anext(ask(ca_file=str(other.ca)))).failure.lower()


async def test_a_missing_endpoint_is_listed_again_before_it_counts_twice(
    api: KubernetesApi, ask: Callable[..., Answers]
) -> None:
    answers = ask()
    await answer_with(answers, has(A, B))
    await answer_with(answers, lambda _: api.watching == 1)
    lists = sum("watch" not in query for _, query in api.requests)
    await api.put("replicas-abc", endpoint(A))
    await answer_with(answers, has(A))
    await answer_with(answers, has(A))
    assert sum("watch" not in query for _, query in api.requests) > lists


@pytest.mark.parametrize("is_relist", [False, True])
async def test_what_a_list_lacks_is_listed_again(
    api: KubernetesApi, ask: Callable[..., Answers], *, is_relist: bool
) -> None:
    answers = ask()
    await api.put("replicas-def", endpoint(C))
    page = {"metadata": {"resourceVersion": "9999"}, "items": [api.slice_of("replicas-abc")]}
    if is_relist:
        await answer_with(answers, has(A, B, C))
        await answer_with(answers, lambda _: api.watching == 1)
        api.forget()
        api.cut()
        await answer_with(answers, lambda answer: answer.failure)
    api.says = json.dumps(page).encode()  # of a server that knows but a part
    await answer_with(answers, has(A, B))
    api.says = b""
    assert has(A, B, C)(await anext(answers))


async def test_outside_of_a_cluster_a_server_is_needed(
    api: KubernetesApi, ask: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "KUBERNETES_SERVICE_HOST" in (await anext(ask(server=None))).failure
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    await answer_with(ask(server=None), has(A, B))
