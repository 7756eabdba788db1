"""Wrong values of the Helm chart are refused, and the message names the value."""

from __future__ import annotations

import pytest
import yaml

from tests.support.helm import CHART, helm, options

WRONG = {
    "routers.count=-1": "/routers/count",
    "routers.count=two": "/routers/count",
    "routrs.count=2": "routrs",
    "routers.autoscaling.min=20": "routers.autoscaling.min",
    "routers.preStopSeconds=1000": "/routers/preStopSeconds",
    "routers.podDisruptionBudget.maxUnavailable=0": "/routers/podDisruptionBudget/maxUnavailable",
    "redis.url=http://redis:6379": "/redis/url",
    "redis.existingSecret=Not_A_Name": "/redis/existingSecret",
    "redis.existingSecret=": "redis.existingSecret",
    "config.grace_seconds=soon": "/config/grace_seconds",
    "config.redis_url=redis://redis": "config.redis_url",
    "config=null": "config: must be a mapping",
    "config.port=8080": "config.port",
    "config.host=127.0.0.1": "config.host",
    "config.workers=4": "config.workers",
    "config.tls_key_file=/tls.key": "config.tls_key_file",
    "service.port=99999": "/service/port",
    "service.type=External": "/service/type",
    "tls.clientCa=true": "tls.clientCa",
    "ipFamily=IPv5": "/ipFamily",
    "image.pullPolicy=Sometimes": "/image/pullPolicy",
    "serviceMonitor.enabled=true": "networkPolicy.admin",
    "serviceMonitor.interval=often": "/serviceMonitor/interval",
    "replicas.enabled=true": "replicas.image",
    "replicas.join=around": "/replicas/join",
    "replicas.capacity=-1": "/replicas/capacity",
    "replicas.ttlSeconds=1": "/replicas/ttlSeconds",
    "replicas.healthPath=health": "/replicas/healthPath",
    "replicas.autoscaling.freeShare=1": "/replicas/autoscaling/freeShare",
    "routers.enabled=false": "routers.enabled",
    "routers.autoscaling.enabled=true,routers.autoscaling.cpuPercent=0": "routers.autoscaling.cpuPercent",
    "serviceMonitor.enabled=true,config.admin_access=none,networkPolicy.enabled=false": "serviceMonitor.tokenSecret",
    "replicas.enabled=true,replicas.image=x,replicas.join=wrapper": "replicas.command",
    "replicas.enabled=true,replicas.image=x,replicas.capacity=0,replicas.autoscaling.enabled=true": "replicas.capacity",
    "replicas.enabled=true,replicas.image=x,replicas.autoscaling.min=9": "replicas.autoscaling.min",
    "routers.enabled=false,replicas.enabled=true,replicas.image=x,replicas.autoscaling.enabled=true": (
        "replicas.autoscaling.selector"
    ),
    "replicas.enabled=true,replicas.image=x,config.pools[0].name=a": "config.pools",
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_value_is_refused_by_its_name(setting: str) -> None:
    done = helm("template", "video", CHART, "--set", setting)
    assert (done.returncode, done.stdout) == (1, "")
    assert WRONG[setting] in done.stderr


@pytest.mark.parametrize("name", ["1st", "a.b"])
def test_a_release_is_not_named_as_no_service_may_be(name: str) -> None:
    done = helm("template", name, CHART)
    assert done.returncode == 1
    assert "name of the release" in done.stderr


def test_an_unknown_key_is_refused_in_each_block() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    blocks = [key for key, value in values.items() if isinstance(value, dict) and key != "config"]
    done = helm("template", "video", CHART, *options((), [f"{key}.unheard=1" for key in blocks]))
    assert len(blocks) > 8
    assert [key for key in blocks if f"'/{key}'" not in done.stderr] == []
