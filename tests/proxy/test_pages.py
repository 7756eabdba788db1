"""Which paths are the router's own, however they are spelled."""

from __future__ import annotations

import time

import pytest

from shared_registry.proxy.answers import Answer
from shared_registry.proxy.pages import OwnPages
from shared_registry.proxy.paths import has_way_up, normal_path


async def never() -> Answer:
    raise AssertionError


PAGES = OwnPages({"/healthz": never, "/metrics": None})


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/metrics//",
        "/Metrics",
        "/%6detrics",
        "/%6Detrics",
        "/%256detrics",
        "/%25256detrics",
        "/%2fmetrics",
        "/metrics%2f",
        "/./metrics",
        "/x/../metrics",
        "/x/%2e%2E/metrics",
        "/x%2f..%2fmetrics",
        "/../metrics",
        "/metrics;a=b",
        "/x;a/..;b/metrics",
        "/\\metrics",
        "/%5cmetrics",
        "/metrics%20",
        "/metrics%00.html",
        "/metrics%0a",
        "/metrics%3fa=b",
        "/metrics%23a",
        "/metrics/replica",
        "/metrics/%2e/replica",
    ],
)
def test_every_spelling_of_a_reserved_path_is_reserved(path: str) -> None:
    assert PAGES.path_of(normal_path(path.encode())) == b"/metrics"


@pytest.mark.parametrize("path", ["/healthz/", "/HEALTHZ", "//healthz", "/health%7a", "/metrics/../healthz"])
def test_every_spelling_of_a_page_is_that_page(path: str) -> None:
    assert PAGES.path_of(normal_path(path.encode())) == b"/healthz"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "/health",
        "/healthz/x",
        "/v1/healthz",
        "/v1/metrics",
        "/metricsx",
        "/metrics.json",
        "/metrics/../v1",
        "/%zz",
        "/%",
    ],
)
def test_other_paths_belong_to_replicas(path: str) -> None:
    assert PAGES.path_of(normal_path(path.encode())) is None


def test_a_long_path_costs_little_time() -> None:
    assert normal_path(b"/" + b"%25" * 20_000) == b"/" + b"%" * 20_000


def test_a_long_way_up_costs_little_time() -> None:
    path = b"/" + b"a/" * 15_000 + b"../" * 11_000
    took = []
    for _ in range(5):  # a busy machine delays one of them or another
        begun = time.process_time()
        assert normal_path(path) == b"/" + b"/".join([b"a"] * 4_000)
        took.append(time.process_time() - begun)
    assert min(took) < 0.05


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/../v1",
        "/metrics/%2e%2e/v1",
        "/metrics/%252e%252E/v1",
        "/metrics%2f..%2fv1",
        "/metrics/..\\v1",
        "/metrics/..;a/v1",
        "/metrics/%20..%00/v1",
        "/x%3f/../sleep",
        "/x%23/../sleep",
        "/x%00/../sleep",
        "/..",
    ],
)
def test_a_path_with_a_way_up_is_found(path: str) -> None:
    assert has_way_up(path.encode())


@pytest.mark.parametrize(
    "path", ["/", "*", "/a..b/c", "/...", "/v1/./x", "/v1//x", "/%2e%2e%2e", "/a%3f/b", "/v1/a%2Fb"]
)
def test_a_path_without_a_way_up_is_none(path: str) -> None:
    assert not has_way_up(path.encode())
