"""What the Helm chart tells routers and `join`: settings that load, files that are mounted, options that exist."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import typer
import yaml

from shared_registry import __version__
from shared_registry.cli.app import app
from shared_registry.config import RouterConfig, load_config
from shared_registry.proxy.service_notices import END_SECONDS
from tests.support.charts import VALUES, Charts, own_words, settings_of
from tests.support.helm import CHART, EXAMPLES, RELEASE, named, rendered


@pytest.mark.parametrize("name", VALUES)
def test_routers_load_the_settings_without_a_warning(
    name: str, charts: Charts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings_of(charts[name], tmp_path)
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []
    assert config.namespace
    assert f"{RELEASE}-router-admin.default.svc" in config.admin_names


def test_values_of_all_kinds_arrive(charts: Charts, tmp_path: Path) -> None:
    assert settings_of(charts["default"], tmp_path).namespace == RELEASE
    assert settings_of(charts["ipv6"], tmp_path).admin_host == "::"
    production = settings_of(charts["production"], tmp_path)
    assert (production.namespace, production.cluster, production.grace_seconds) == ("video", "prod-eu", 120)
    assert (production.admin_access, production.queue_timeout_seconds) == ("none", 60)
    [source] = settings_of(charts["discovery"], tmp_path).discovery
    assert (source.kind, source.service, source.capacity) == ("kubernetes", "llama", 8)
    large = rendered(settings=["config.max_body_bytes=268435456"])
    assert settings_of(large, tmp_path).max_body_bytes == 268_435_456


def test_files_of_secrets_are_mounted_where_routers_read_them(charts: Charts, tmp_path: Path) -> None:
    objects = rendered(EXAMPLES / "production.yaml", settings=["tls.clientCa=true"])
    config = settings_of(objects, tmp_path)
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}

    def secret_of(path: str | None) -> tuple[str, str]:
        assert path is not None
        folder, _, name = path.rpartition("/")
        return secrets[mounted[folder]], name

    assert secret_of(config.tls_certificate_file) == ("router-tls", "tls.crt")
    assert secret_of(config.tls_key_file) == ("router-tls", "tls.key")
    assert secret_of(config.tls_client_ca_file) == ("router-tls", "ca.crt")
    assert secret_of(config.api_keys_file) == ("router-api-keys", "api-keys")
    assert secret_of(config.admin_tokens_file) == ("router-admin-tokens", "admin-tokens")
    assert secret_of("/run/secrets/shared-registry/redis/ca.crt") == ("redis-ca", "ca.crt")
    assert "/run/secrets/shared-registry/redis/ca.crt" in (CHART / "values.yaml").read_text()


@pytest.mark.parametrize("name", VALUES)
def test_each_pod_has_time_to_stop(name: str, charts: Charts, tmp_path: Path) -> None:
    grace = settings_of(charts[name], tmp_path).grace_seconds
    for one in charts[name]:
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["spec"]
            pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
            assert pod["terminationGracePeriodSeconds"] == pause + grace + END_SECONDS
        elif one["kind"] == "StatefulSet":
            words = own_words(one)[0]
            drain, stop = (int(words[words.index(f"--{kind}-seconds") + 1]) for kind in ("drain", "stop"))
            assert one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + stop + END_SECONDS


def test_without_grace_the_setting_has_its_own_default() -> None:
    objects = rendered(settings=["config.grace_seconds=null"])
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 5 + RouterConfig().grace_seconds + END_SECONDS
    pod = named(rendered(settings=["config.grace_seconds=0"]), "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 5 + END_SECONDS


@pytest.mark.parametrize("name", VALUES)
def test_every_option_of_the_chart_exists(name: str, charts: Charts) -> None:
    group = typer.main.get_command(app)
    for one in charts[name]:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            [words] = own_words(one)
            with group.make_context("shared-registry", [words[0]]) as outer:
                command = group.get_command(outer, words[0])  # type: ignore[attr-defined]
                command.make_context(words[0], [*words[1:]], parent=outer)


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert named(rendered(), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].endswith(__version__)


def test_only_settings_of_routers_are_named() -> None:
    fields = {one.name for one in dataclasses.fields(RouterConfig)}
    owned = (CHART / "templates" / "_helpers.tpl").read_text().split("$owned := dict")[1].split("}}")[0]
    assert {line.split('"')[1] for line in owned.splitlines() if '"' in line} <= fields


@pytest.mark.parametrize("name", ["default", "join", "fastvideo"])
def test_variables_of_services_are_no_settings(name: str, charts: Charts, caplog: pytest.LogCaptureFixture) -> None:
    """A release named shared-registry has Services whose variables begin as those of settings do."""
    load_config(None, environ={"SHARED_REGISTRY_ROUTER_PORT": "tcp://127.0.0.9:9000"})
    assert "SHARED_REGISTRY_ROUTER_PORT is ignored" in caplog.text
    for one in charts[name]:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            assert one["spec"]["template"]["spec"]["enableServiceLinks"] is False
