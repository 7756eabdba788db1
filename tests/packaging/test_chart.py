"""What the Helm chart makes of its values is what Kubernetes accepts, and belongs together."""

from __future__ import annotations

import pytest
import yaml

from shared_registry.telemetry.families import EVERY
from tests.support.charts import VALUES, Charts
from tests.support.foreign import find_module
from tests.support.helm import CHART, EXAMPLES, RELEASE, helm, named, options

kubernetes_validate = find_module("kubernetes_validate", "kubernetes-validate")
VERSIONS = ("1.30", "1.37")
OTHERS = {"ServiceMonitor"}
"""Kinds that are not Kubernetes' own."""


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_complain_of(name: str) -> None:
    files, settings = VALUES[name]
    done = helm("lint", "--strict", CHART, *options(files, settings))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_accepts_each_object(name: str, charts: Charts) -> None:
    assert len(charts[name]) > 2
    for one in charts[name]:
        if one["kind"] not in OTHERS:
            for version in VERSIONS:
                kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_objects_belong_together(name: str, charts: Charts) -> None:
    objects = charts[name]
    keys = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(set(keys)) == len(keys)
    pods = [one["spec"]["template"] for one in objects if "template" in one.get("spec", {})]
    labels = [pod["metadata"]["labels"].items() for pod in pods]
    for one in objects:
        if one["kind"] == "ServiceMonitor":
            continue
        selector = one.get("spec", {}).get("selector") or one.get("spec", {}).get("podSelector")
        if selector:
            wanted = selector.get("matchLabels", selector).items()
            assert sum(wanted <= found for found in labels) == 1, f"{one['kind']} selects other pods"
        target = one.get("spec", {}).get("scaleTargetRef")
        if target:
            scaled = named(objects, target["kind"], target["name"])
            assert "replicas" not in scaled["spec"], "two would set the number of pods"
    for pod in pods:
        ports = {
            port["name"]
            for container in pod["spec"]["containers"]
            for port in container["ports" if "ports" in container else "env"]
            if "containerPort" in port
        }
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
                if "httpGet" in container.get(kind, {}):
                    assert container[kind]["httpGet"]["port"] in ports


def test_the_notes_name_a_pool() -> None:
    """Without the name, commands with the file of several pools are refused."""
    pools = ("config.pools[0].name=llama", "config.pools[1].name=video")
    done = helm("install", RELEASE, CHART, "--dry-run=client", *options((), pools))
    assert "status --config /etc/shared-registry/router.yaml --namespace llama\n" in done.stdout, done.stderr


def test_a_sidecar_and_its_pod_get_what_they_need(charts: Charts) -> None:
    pod = named(charts["private"], "StatefulSet")["spec"]["template"]["spec"]
    assert (pod["priorityClassName"], pod["runtimeClassName"]) == ("gpu", "nvidia")
    _, sidecar = pod["containers"]
    assert {"name": "ca", "mountPath": "/ca"} in sidecar["volumeMounts"]
    assert {"name": "TZ", "value": "UTC"} in sidecar["env"]
    assert sidecar["resources"]["limits"] == {"cpu": "100m", "memory": "256Mi"}


def test_probes_ask_the_admin_address(charts: Charts) -> None:
    for name in ("default", "tls", "production"):
        [container] = named(charts[name], "Deployment")["spec"]["template"]["spec"]["containers"]
        assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"clients": 9000, "admin": 10000}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}


def test_prometheus_finds_the_admin_service(charts: Charts) -> None:
    monitor = named(charts["production"], "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [one for one in charts["production"] if one["kind"] == "Service"]
    [found] = [one for one in services if wanted <= one["metadata"]["labels"].items()]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"]["credentials"] == {"name": "prometheus-token", "key": "token"}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_autoscalers_read_what_the_adapter_offers(charts: Charts) -> None:
    rules = yaml.safe_load((EXAMPLES / "prometheus-adapter.yaml").read_text())["rules"]
    metrics = {family.name for family in EVERY}
    for rule in (*rules["custom"], *rules["external"]):
        assert rule["seriesQuery"].partition("{")[0] in metrics
    [external] = named(charts["autoscaling"], "HorizontalPodAutoscaler", f"{RELEASE}-replica")["spec"]["metrics"]
    assert external["external"]["metric"]["name"] == rules["external"][0]["name"]["as"]
    service = external["external"]["metric"]["selector"]["matchLabels"]["service"]
    assert named(charts["autoscaling"], "Service", service)["spec"]["publishNotReadyAddresses"] is True
    assert external["external"]["target"] == {"type": "AverageValue", "averageValue": "12000m"}
    pods, cpu = named(charts["production"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert pods["pods"]["metric"]["name"] == rules["custom"][0]["seriesQuery"].partition("{")[0]
    assert cpu["resource"]["name"] == "cpu"
