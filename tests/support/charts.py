"""Values for the chart, and what tests read out of its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared_registry.config import RouterConfig, load_config
from tests.support.helm import EXAMPLES, Objects, named

Charts = dict[str, Objects]
Values = tuple[tuple[Path, ...], tuple[str, ...]]
PASSWORD = "geheim"
TRIAL = f"redis.url=redis://:{PASSWORD}@redis:6379/0"
JOINS = EXAMPLES / "join.yaml"
PRIVATE = (
    "replicas.scheme=https",
    "config.replica_tls.ca_file=/ca/ca.crt",
    "config.health_check.port=9090",
    "replicas.volumes[0].name=ca",
    "replicas.volumes[0].secret.secretName=ca",
    "replicas.sidecar.volumeMounts[0].name=ca",
    "replicas.sidecar.volumeMounts[0].mountPath=/ca",
    "replicas.sidecar.env[0].name=TZ",
    "replicas.sidecar.env[0].value=UTC",
    "replicas.sidecar.resources.limits.cpu=100m",
    "replicas.priorityClassName=gpu",
    "replicas.runtimeClassName=nvidia",
)
VALUES: dict[str, Values] = {
    "default": ((), ()),
    "trial": ((), (TRIAL,)),
    "existing-secret": ((), ("redis.existingSecret=other", "redis.key=address", "redis.caSecret=redis-ca")),
    "ipv6": ((JOINS,), ("ipFamily=IPv6",)),
    "no-autoscaling": ((EXAMPLES / "production.yaml",), ("routers.autoscaling.enabled=false",)),
    "autoscaling": ((JOINS,), ("replicas.autoscaling.enabled=true", "routers.autoscaling.enabled=true")),
    "tls": ((), ("tls.existingSecret=router-tls", "tls.clientCa=true")),
    "no-policies": ((JOINS,), ("networkPolicy.enabled=false", "replicas.podDisruptionBudget.enabled=false")),
    "replicas-alone": ((JOINS,), ("routers.enabled=false", "config.namespace=llama")),
    "private": ((JOINS,), PRIVATE),
    "account": ((EXAMPLES / "discovery.yaml",), ("serviceAccount.create=false", "serviceAccount.name=mine")),
    **{name: ((EXAMPLES / f"{name}.yaml",), ()) for name in ("discovery", "join", "fastvideo", "production")},
}


def settings_of(objects: Objects, folder: Path) -> RouterConfig:
    """Load the settings of a chart as its routers do."""
    path = folder / "router.yaml"
    path.write_text(named(objects, "ConfigMap")["data"]["router.yaml"])
    environ = {"SHARED_REGISTRY_HOST": "0.0.0.0", "SHARED_REGISTRY_PORT": "9000"}  # of the image
    return load_config(path, environ=environ).config


def own_words(workload: dict[str, Any]) -> list[list[str]]:
    """Return the arguments of each `shared-registry` that the pods of a workload run."""
    found = []
    for container in workload["spec"]["template"]["spec"]["containers"]:
        words = [*container.get("command", ()), *container.get("args", ())]
        if "shared-registry" in words:
            found.append(words[words.index("shared-registry") + 1 :])
    return found
