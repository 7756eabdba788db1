"""What pods of the Helm chart may do, and who may connect to them."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.charts import PASSWORD, Charts, settings_of
from tests.support.command import ROOT
from tests.support.helm import RELEASE, named, rendered


def test_containers_of_our_image_may_do_nothing(charts: Charts) -> None:
    seen = 0
    for one in (*charts["default"], *charts["join"]):
        for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            if container["image"].startswith("shared-registry:"):
                seen += 1
                allowed = container["securityContext"]
                assert allowed["readOnlyRootFilesystem"] is allowed["runAsNonRoot"] is True
                assert (allowed["allowPrivilegeEscalation"], allowed["capabilities"]) == (False, {"drop": ["ALL"]})
                assert allowed["seccompProfile"] == {"type": "RuntimeDefault"}
                assert f"USER {allowed['runAsUser']}:{allowed['runAsGroup']}" in (ROOT / "Dockerfile").read_text()
    assert seen == 3


def test_routers_read_slices_and_nothing_else(charts: Charts) -> None:
    role = named(charts["discovery"], "Role")
    assert role["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}
    ]
    binding = named(charts["discovery"], "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    pod = named(charts["discovery"], "Deployment")["spec"]["template"]["spec"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": "default"}
    ]
    assert pod["automountServiceAccountToken"] is True
    pod = named(charts["account"], "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == named(charts["account"], "RoleBinding")["subjects"][0]["name"] == "mine"


def test_without_discovery_pods_have_no_token(charts: Charts) -> None:
    for name in ("default", "join", "production"):
        assert not [one for one in charts[name] if one["kind"] in {"Role", "RoleBinding"}]
        for one in charts[name]:
            if one["kind"] in {"Deployment", "StatefulSet"}:
                assert one["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_each_namespace_with_replicas_has_a_role(tmp_path: Path) -> None:
    sources = [{"kind": "kubernetes", "name": name, "service": name, "port": 80, "namespace": name} for name in "ab"]
    pools = [{"name": name, "models": [name], "discovery": [one]} for name, one in zip("ab", sources, strict=True)]
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"config": {"pools": pools}}))
    objects = rendered(path)
    assert settings_of(objects, tmp_path).pools
    for kind in ("Role", "RoleBinding"):
        assert [one["metadata"]["namespace"] for one in objects if one["kind"] == kind] == ["a", "b"]


def test_the_url_of_redis_is_in_a_secret_alone(charts: Charts) -> None:
    for name, secret, key in (
        ("default", "shared-registry-redis", "url"),
        ("existing-secret", "other", "address"),
        ("trial", f"{RELEASE}-redis", "url"),
        ("join", "shared-registry-redis", "url"),
    ):
        for one in charts[name]:
            assert one["kind"] == "Secret" or PASSWORD not in yaml.safe_dump(one)
            for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
                if "shared-registry" in [*container.get("command", ()), *container.get("args", ())]:
                    [found] = [env for env in container["env"] if env["name"] == "SHARED_REGISTRY_REDIS_URL"]
                    assert found["valueFrom"]["secretKeyRef"] == {"name": secret, "key": key}
    assert named(charts["trial"], "Secret")["stringData"]["url"] == f"redis://:{PASSWORD}@redis:6379/0"


def test_only_routers_reach_replicas(charts: Charts) -> None:
    policy = named(charts["join"], "NetworkPolicy", f"{RELEASE}-replica")
    [rule] = policy["spec"]["ingress"]
    [peer] = rule["from"]
    routers = named(charts["join"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    replicas = named(charts["join"], "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    wanted = peer["podSelector"]["matchLabels"].items()
    assert wanted <= routers.items()
    assert not wanted <= replicas.items()


def test_routers_reach_the_port_of_probes(charts: Charts, tmp_path: Path) -> None:
    [rule] = named(charts["join"], "NetworkPolicy", f"{RELEASE}-replica")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "http"}]
    [rule] = named(charts["private"], "NetworkPolicy", f"{RELEASE}-replica")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "http"}, {"port": settings_of(charts["private"], tmp_path).health_check_port}]


def test_the_admin_address_is_open_to_those_named(charts: Charts) -> None:
    [clients] = named(charts["default"], "NetworkPolicy")["spec"]["ingress"]
    assert clients == {"ports": [{"port": "clients"}]}
    clients, admin = named(charts["production"], "NetworkPolicy")["spec"]["ingress"]
    assert clients["from"]
    assert admin["ports"] == [{"port": "admin"}]
    assert admin["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
