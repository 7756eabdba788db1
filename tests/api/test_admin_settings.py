"""Where a router's admin address is."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from shared_registry.api.address import admin_address, port_of
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "worker", "port"),
    [
        ({}, None, 10_000),
        ({"port": 0}, None, 0),
        ({"port": 65_000}, None, 0),
        ({"port": 8080}, 1, 9080),
        ({"port": 8080}, 3, 9082),
        ({"admin_port": 7000}, None, 7000),
        ({"admin_port": 7000}, 2, 7001),
        ({"admin_port": 0}, 2, 0),
        ({"admin_port": "off"}, 2, None),
    ],
)
def test_each_worker_has_a_port_of_its_own(settings: dict[str, Any], worker: int | None, port: int | None) -> None:
    assert port_of(RouterConfig(**settings), worker) == port


def test_a_worker_beyond_the_last_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="admin_port: 65535 leaves no port for worker 2"):
        port_of(RouterConfig(admin_port=65_535), 2)


def test_a_busy_port_names_the_setting_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = RouterConfig(admin_port=other.getsockname()[1])
        with pytest.raises(ConfigError, match=r"^admin_port: .* set admin_port to another port .* off"):
            bind(config)
    with pytest.raises(ConfigError, match=r"^admin_host: cannot listen on "):
        bind(RouterConfig(admin_host="no.such.host.invalid"))


def bind(config: RouterConfig) -> None:
    with admin_address(config):
        pass
