"""The setting `pools`: what is accepted, what is refused, and the settings of each pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared_registry.config import InvalidSettings, RouterConfig
from shared_registry.config.sources import load_yaml
from shared_registry.model import ReplicaEndpoint

LLAMA, VIDEO = "http://127.0.0.1:8001", "http://127.0.0.1:8002"


def router(**settings: Any) -> RouterConfig:
    return RouterConfig(**settings)


def pools(*rules: Any, **settings: Any) -> dict[str, RouterConfig]:
    return router(pools=list(rules), **settings).pool_configs()


def test_a_pool_has_the_routers_settings_but_its_own() -> None:
    found = pools(
        {"name": "llama", "models": ["llama-3*"], "replicas": [LLAMA], "policy": "round_robin"},
        {"name": "video", "namespace": "frames", "replicas": [{"url": VIDEO, "capacity": 1}]},
        queue_timeout_seconds=7.0,
    )
    assert list(found) == ["llama", "video"]
    assert (found["llama"].namespace, found["video"].namespace) == ("llama", "frames")
    assert (found["llama"].policy, found["video"].policy) == ("round_robin", "priority")
    assert [one.queue_timeout_seconds for one in found.values()] == [7.0, 7.0]
    assert [(one.url, one.capacity) for one in found["video"].replicas] == [(VIDEO, 1)]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("llama", "is not JSON"),
        ({"name": "a"}, "must be a list"),
        ([3], "pools[0]: must be a mapping"),
        ([{}], "pools[0].name: None is no name"),
        ([{"name": "a b"}], "is no name"),
        ([{"name": "a"}, {"name": "a"}], "a is the name of two pools"),
        ([{"name": "a", "port": 1}], "a cannot have port"),
        ([{"name": "a", "model": ["x"]}], "did you mean models?"),
        ([{"name": "a", "models": "x"}], "pools[0].models: must be a list"),
        ([{"name": "a", "models": ["x*y"]}], "'x*y' is not usable"),
        ([{"name": "a", "paths": ["v1"]}], "'v1' is not usable"),
        ([{"name": "a", "headers": {"X-Pool": 1}}], "put numbers in quotes"),
        ([{"name": "a", "headers": {"X_Pool": "1"}}], "'X_Pool' is no name of a header"),
        ([{"name": "a", "replicas": [{"url": LLAMA, "capcity": 1}]}], "did you mean capacity?"),
        ([{"name": "a", "replicas": ["nowhere"]}], "pools: a: replicas[0].url"),
        ([{"name": "a", "queue_timeout_seconds": -1}], "pools: a: queue_timeout_seconds: must be at least 0"),
        ([{"name": "a", "namespace": "x"}, {"name": "b", "namespace": "x"}], "a and b share the namespace x"),
        ([{"name": str(at)} for at in range(101)], "has 101 rules"),
    ],
)
def test_a_wrong_pool_is_refused_by_name(rules: Any, said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        RouterConfig(pools=rules)
    assert said in str(caught.value)


def test_replicas_beside_pools_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="each replica belongs to one"):
        router(pools=[{"name": "a"}], replicas=[ReplicaEndpoint(LLAMA)])


def test_two_namespaces_of_one_name_on_two_servers_are_two() -> None:
    found = pools({"name": "a", "namespace": "x"}, {"name": "b", "namespace": "x", "redis_url": "redis://127.0.0.1:1"})
    assert len(found) == 2


def test_passwords_in_pools_are_masked() -> None:
    secret = {"redis_url": "redis://u:hush@127.0.0.1", "health_check_headers": {"Authorization": "hush"}}
    config = router(pools=[{"name": "a", **secret}])
    assert "hush" not in repr(config)
    assert "hush" not in str(config.shown())
    assert config.shown()["pools"] == [
        {"name": "a", "redis_url": "redis://u:***@127.0.0.1", "health_check_headers": {"Authorization": "***"}}
    ]


def test_pools_come_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(f"router:\n  pools:\n    - name: llama\n      models: [llama-3*]\n      replicas: ['{LLAMA}']\n")
    config = load_yaml(file)
    assert [one.url for one in config.pool_configs()["llama"].replicas] == [LLAMA]
