"""`status --from`: what a router knows, without Redis."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared_registry.cli import router_page, watching
from shared_registry.cli.replica_filter import ReplicaFilter
from shared_registry.cli.router_page import PageUnreadable, overview_of, pool_of
from shared_registry.cli.router_status import page_text
from shared_registry.cli.tables import lines_of
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import UsageError
from shared_registry.model import (
    AdminState,
    Doubt,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
)
from shared_registry.store.replica_fields import Document, replica_document
from tests.support.command import running
from tests.support.in_process import invoke
from tests.support.until import wait_for

POOLS = {"pools": {"big": {"namespace": "large", "replicas": []}, "small": {"namespace": "tiny", "replicas": []}}}
A = "http://127.0.0.1:1"
PAGE: dict[str, object] = {"history_id": None, "revision": "0-0", "leader": None, "queue": {"depth": 0}, "replicas": []}


def test_a_router_answers_while_redis_is_away(own_server: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    server = own_server()
    variables = {"SHARED_REGISTRY_REDIS_URL": server.url}
    assert invoke("add", A, "--name", "gpu-1", "--capacity", "2", **variables).code == 0
    with running(tmp_path, "serve", "--host", "127.0.0.1", "--port", "0", **variables) as router:
        wait_for(lambda: "leads in epoch" in router.err, "a leader")
        found = json.loads(invoke("routers", "--json", **variables).out)["routers"]
        url = found[0]["url"]
        wait_for(lambda: "unhealthy" in invoke("status", "--from", url).out, "the verdict")
        there = json.loads(invoke("status", "--from", url, "--json").out)
        assert (there["from"], there["namespace"], there["replicas"][0]["name"]) == (url, "default", "gpu-1")
        assert there["replicas"][0]["trouble"].startswith("unhealthy since ")
        server.kill()
        wait_for(lambda: "Redis is away" in invoke("status", "--from", url).out, "the outage")
        done = invoke("status", "--from", url, "--unhealthy", COLUMNS="80")
        assert (done.code, done.err) == (0, "")
        assert any(line.startswith("gpu-1: unhealthy since ") for line in done.out.splitlines())
        assert invoke("status", "--from", url, "-l", "zone=a", "--json").out.count("gpu-1") == 0


@pytest.mark.parametrize(("name", "namespace"), [("big", "large"), ("large", "large"), ("small", "tiny")])
def test_one_of_several_pools_is_named(name: str, namespace: str) -> None:
    assert pool_of(POOLS, name)["namespace"] == namespace


@pytest.mark.parametrize("name", [None, "other"])
def test_several_pools_need_a_name(name: str | None) -> None:
    with pytest.raises(UsageError, match="it serves large, tiny"):
        pool_of(POOLS, name)


def test_a_status_of_another_form_is_refused() -> None:
    with pytest.raises(PageUnreadable, match="another version"):
        overview_of({"replicas": [{}], "leader": None, "queue": {"depth": 0}, "history_id": None, "revision": "0-0"})


def page_of(*records: ReplicaRecord, **others: object) -> dict[str, Any]:
    """Return the status of a router with these replicas."""
    shown = [replica_document(one, Document.STATUS) for one in records]
    return {
        **PAGE,
        "router": "r~1",
        "namespace": "pool",
        "sessions": 0,
        "is_settling": False,
        "is_stale": False,
        "age_seconds": 0.5,
        "read_age_seconds": 0.6,
        "writable_age_seconds": 0.5,
        "write_failure": None,
        "replicas": json.loads(json.dumps(shown)),
        **others,
    }


def text_of(page: dict[str, Any], *, is_wide: bool = False) -> str:
    found = page_text("http://r:1", page, overview_of(page), ReplicaFilter(is_wide=is_wide), width=None)
    return "\n".join(lines_of(found))


def test_all_that_a_router_shows_of_a_replica_is_read() -> None:
    doubt = Doubt("b", suspicion="b", suspected_by="b", asked=("c",), unreached_by=("d",), reached_by="e")
    endpoint = ReplicaEndpoint(A, "gpu-1", primary=True, capacity=2, labels={"zone": "a"}, health_check_port=9)
    record = ReplicaRecord(
        A,
        endpoint,
        ReplicaHealth(ReplicaStatus.UNHEALTHY, 1.0, 2.0, 3, 0, 4.5),
        doubt,
        source="announced",
        status_since=5.0,
        last_error="refused",
        admin=AdminState.DRAINING,
        admin_since=6.0,
        admin_reason="fan",
        admin_by="ann",
        in_flight=1,
        ejected_until=7.0,
        ejections=2,
        owner="host-1",
        ttl_seconds=10.0,
        last_heartbeat_at=8.0,
        expired_at=9.0,
    )
    assert overview_of(page_of(record)).replicas == [record]


def test_the_source_of_a_replica_is_that_of_the_router() -> None:
    page = page_of(ReplicaRecord(A, ReplicaEndpoint(A), source="explicit"))
    assert text_of(page, is_wide=True).splitlines()[-1].split()[-1] == "explicit"


def test_one_of_several_probers_is_no_doubt() -> None:
    record = ReplicaRecord(A, ReplicaEndpoint(A), doubt=Doubt("router~2"))
    assert "doubt" not in text_of(page_of(record))
    assert "not by d" in text_of(page_of(replace(record, doubt=Doubt(unreached_by=("d",)))))


def test_what_a_router_knew_has_its_age() -> None:
    leader = {"router": "r~1", "epoch": 7, "elected_at": 1.0}
    away = {"age_seconds": 20.0, "read_age_seconds": 180.0, "queue": {"depth": None}}
    facts = text_of(page_of(leader=leader, **away))
    assert "r~1, epoch 7, as of 20 s ago" in facts
    assert "20 s old; sessions and probe times 3 min old" in facts
    facts = text_of(page_of(leader=leader))
    assert "as of" not in facts
    assert "probe times" not in facts


def test_a_router_without_a_view_knows_no_leader() -> None:
    ages = {"age_seconds": None, "read_age_seconds": None, "writable_age_seconds": None, "queue": {"depth": None}}
    text = text_of(page_of(ReplicaRecord(A, ReplicaEndpoint(A)), **ages))
    assert text.startswith("Not serving, because Redis has not been read yet: ")
    assert "leader     not known" in text.splitlines()


def test_a_router_that_does_not_answer_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = invoke("status", "--from", f"http://127.0.0.1:{port}")
    assert (done.code, done.out) == (3, "")
    assert f"http://127.0.0.1:{port} cannot be read" in done.err


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("127.0.0.1:9000", "ftp://a", "http://a:b", "http://a/other"):
        done = invoke("status", "--from", url)
        assert (done.code, done.out) == (2, "")
        assert "--from" in done.err
    done = invoke("status", "--from", "http://127.0.0.1:1", "--watch")
    assert done.code == 2


@contextlib.contextmanager
def answering(pieces: Iterable[bytes]) -> Iterator[str]:
    """Run a server that answers one request with pieces, and yield its url."""

    def answer() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.recv(65_536)
                for piece in pieces:
                    client.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\ncontent-type: ", b""),
    ],
    ids=["interim responses", "a body", "half a head"],
)
def test_an_endless_status_ends_in_time(begin: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAGE_SECONDS", 0.5)
    ended = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield begin
        while not ended.wait(0.01):
            yield piece

    with answering(pieces()) as url:
        try:
            done = invoke("status", "--from", url)
        finally:
            ended.set()
    assert (done.code, done.out) == (3, "")
    assert "does not send all of its status within 0.5 s" in done.err


@pytest.mark.parametrize(
    "body",
    ["[" * 200_000, json.dumps(PAGE), json.dumps({"pools": [1]}), json.dumps({**PAGE, "replicas": [{"url": 5}]})],
    ids=["too deep", "parts are missing", "pools are a list", "a url is a number"],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_malformed_status_is_refused(body: str, options: list[str]) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
    with answering([head.encode(), body.encode()]) as url:
        done = invoke("status", "--from", url, *options)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"detail": "without a token nobody may read here", "remedy": "send one"}', ": without a token nobody may"),
        ('{"message": "this router needs an API key"}', ": this router needs an API key"),
        ("[1]", "; is it a router's address?"),
        ("<html>", "; is it a router's address?"),
        ('{"detail": "' + "x" * 5000 + '\\u001b[31m"}', ": xxx"),
    ],
)
def test_a_router_that_refuses_says_why(body: str, why: str) -> None:
    head = f"HTTP/1.1 401 Unauthorized\r\ncontent-length: {len(body)}\r\n\r\n"
    with answering([head.encode(), body.encode()]) as url:
        done = invoke("status", "--from", url)
    assert (done.code, done.out) == (3, "")
    assert f"{url} answers with 401 Unauthorized{why}" in done.err
    assert len(done.err) < 500


def test_a_reason_cannot_control_the_terminal() -> None:
    with answering([b"HTTP/1.1 500 \x1b[31mred\r\ncontent-length: 0\r\n\r\n"]) as url:
        done = invoke("status", "--from", url)
    assert "500 \\x1b[31mred" in done.err


def test_an_answer_that_takes_too_long_leaves_no_socket() -> None:
    ended = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while not ended.wait(0.01):
            yield b" "

    with answering(pieces()) as url:
        try:
            with pytest.raises(TimeoutError) as raised:
                router_page._answer_of(router_page._connection(url, 10.0), deadline=0.0)
        finally:
            ended.set()
    assert raised.traceback[-1].frame.f_locals["response"].isclosed()
