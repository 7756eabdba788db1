"""docker-compose.yml as a text: what a run of it would not show."""

from __future__ import annotations

import re

import yaml

from shared_registry.config import load_config
from shared_registry.proxy.service_notices import END_SECONDS
from tests.support.command import ROOT


def test_compose_leaves_routers_the_time_to_stop() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    config = load_config(ROOT / "examples" / "compose" / "router.yaml", environ={}).config
    routers = [service for name, service in services.items() if re.fullmatch(r"router-\d", name)]
    assert len(routers) == 3
    for router in routers:
        assert int(router["stop_grace_period"].removesuffix("s")) >= config.grace_seconds + END_SECONDS
