"""`status --from`: what a router knows, without Redis."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_registry.cli.router_page import PageUnreadable, overview_of, pool_of
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import UsageError
from tests.support.command import running
from tests.support.in_process import invoke
from tests.support.until import wait_for

POOLS = {"pools": {"big": {"namespace": "large", "replicas": []}, "small": {"namespace": "tiny", "replicas": []}}}
A = "http://127.0.0.1:1"


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
