"""Which paths are the router's own, however they are spelled."""

from __future__ import annotations

import pytest

from shared_registry.proxy.answers import Answer
from shared_registry.proxy.pages import OwnPages
from shared_registry.proxy.paths import normal_path


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
