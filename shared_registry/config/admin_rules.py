"""The rules for the settings of a router's admin address."""

from __future__ import annotations

import re
from typing import Literal

from shared_registry.config.access_rules import items_of
from shared_registry.config.problems import shorten
from shared_registry.errors import ConfigError

MAX_PORT = 65_535
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")


def check_admin_port(value: object) -> int | Literal["auto", "off"]:
    """Return the value of the setting `admin_port`. YAML reads `off` as false.

    Raises:
        ConfigError: The value is no port, and neither `auto` nor `off`.
    """
    if value is False or value == "off":
        return "off"
    if value == "auto":
        return "auto"
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:6])
    if type(value) is int and 0 <= value <= MAX_PORT:
        return value
    raise ConfigError(
        f"admin_port: must be a port from 1 to {MAX_PORT}, 0 for any free one, auto (the default) or off, "
        f"got {shorten(value)}"
    )


def check_agent_port(value: object) -> int | Literal["off"]:
    """Return the value of the setting `agent_port`. YAML reads `off` as false.

    Raises:
        ConfigError: The value is no port, and not `off`.
    """
    try:
        port = check_admin_port(value)
    except ConfigError:
        port = "auto"
    if port == "auto":
        remedy = f"must be a port from 1 to {MAX_PORT}, or off (the default)"
        raise ConfigError(f"agent_port: {remedy}, got {shorten(value)}")
    return port or "off"


def check_admin_names(value: object) -> tuple[str, ...]:
    """Return the host names of the setting `admin_names`, in lower case.

    Args:
        value: A list of names, or the same as text, separated by commas; `none` is an empty list.

    Raises:
        ConfigError: The value is not such a list.
    """
    items = items_of("admin_names", value, "[router-1.example.com]")
    return tuple(dict.fromkeys(_name(f"admin_names[{at}]", item) for at, item in enumerate(items)))


def _name(where: str, value: object) -> str:
    name = value.lower() if isinstance(value, str) else ""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {shorten(value)} is no host name; write one such as router-1.example.com")
    return name
