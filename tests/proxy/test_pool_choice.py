"""To which pool a request belongs."""

from __future__ import annotations

import pytest

from shared_registry.config.pool_rules import check_pools
from shared_registry.proxy.pool_choice import PoolChoice, Unknown, model_in_path

POOLS = PoolChoice(
    check_pools(
        [
            {"name": "admin", "paths": ["/admin/*"], "hosts": ["a.example.com", "*.b.example.com"]},
            {"name": "tenant", "headers": {"X-Tenant": "t1"}},
            {"name": "small", "models": ["llama-8b", "mini*"], "paths": ["/v1/*"]},
            {"name": "large", "models": ["llama-70b"]},
            {"name": "video", "paths": ["/video"]},
        ]
    )
)


@pytest.mark.parametrize(
    ("path", "fields", "model", "pool"),
    [
        (b"/admin/x", [(b"host", b"A.example.com:9000")], None, "admin"),
        (b"/admin/x", [(b"host", b"x.b.example.com.")], None, "admin"),
        (b"/admin/x", [(b"host", b"b.example.com")], None, None),
        (b"/admin/x", [(b"host", b"evil-a.example.com")], None, None),
        (b"/x", [(b"x-tenant", b"t1")], "llama-70b", "tenant"),
        (b"/x", [(b"x-tenant", b"t2")], "llama-70b", "large"),
        (b"/v1/chat", [], "llama-8b", "small"),
        (b"/v1/chat", [], "minimal", "small"),
        (b"/v1/chat", [], "llama-8b-x", None),
        (b"/chat", [], "llama-8b", None),
        (b"/v1/chat", [], Unknown.MODEL, Unknown.MODEL),
        (b"/video", [], Unknown.MODEL, Unknown.MODEL),
        (b"/video", [], None, "video"),
        (b"/videos", [], None, None),
        (b"/v1/chat", [(b"host", b"[::1]:80")], "llama-70b", "large"),
    ],
)
def test_the_first_pool_that_matches_takes_it(
    path: bytes, fields: list[tuple[bytes, bytes]], model: str | Unknown | None, pool: object
) -> None:
    assert POOLS.choose(path, fields, model) == pool


def test_a_pool_without_conditions_takes_everything() -> None:
    assert PoolChoice(check_pools([{"name": "all"}])).choose(b"/x", [], Unknown.MODEL) == "all"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (b"/v1/models/Llama-3", "Llama-3"),
        (b"/v1/models/org%2FLlama", "org/Llama"),
        (b"/v1/models/org/Llama", "org/Llama"),
        (b"/v1/models", None),
        (b"/v1/models/", None),
        (b"/x/models/y", None),
    ],
)
def test_the_model_of_a_page_is_in_its_path(path: bytes, model: str | None) -> None:
    assert model_in_path(path) == model
