"""Where a registry is, for programs that only read it.

The rules for all settings of a router take longer to import than a command needs for everything else. A command that
reads therefore takes the address without them, where nothing else is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shared_registry.errors import ConfigError
from shared_registry.store.keys import NAMESPACE_PATTERN
from shared_registry.store.redis_url import check_redis_url

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
DEFAULT_NAMESPACE = "default"
DEFAULT_REFRESH_SECONDS = 1.0
DEFAULT_REDIS_TIMEOUT_SECONDS = 1.0
ENV_PREFIX = "SHARED_REGISTRY_"
"""What the name of every environment variable with a setting begins with."""


class RegistryAddress(Protocol):
    """The settings that reading a registry needs; a `RouterConfig` has them, too."""

    @property
    def redis_url(self) -> str:
        """The Redis that holds the registry."""

    @property
    def namespace(self) -> str:
        """The registry's name in that Redis."""

    @property
    def cluster(self) -> str | None:
        """The group of routers to which the namespace must belong; `None` for any."""

    @property
    def redis_timeout_seconds(self) -> float:
        """The longest time of one call."""

    @property
    def refresh_seconds(self) -> float:
        """The longest time of one blocking read."""


class PlainAddress:
    """An address of which only the Redis and the namespace are chosen. Both are valid."""

    __slots__ = ("namespace", "redis_url")
    cluster: str | None = None
    redis_timeout_seconds = DEFAULT_REDIS_TIMEOUT_SECONDS
    refresh_seconds = DEFAULT_REFRESH_SECONDS

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.redis_url = redis_url
        self.namespace = namespace


def plain_address(
    environ: Mapping[str, str], *, redis_url: str | None, namespace: str | None
) -> RegistryAddress | None:
    """Return the address in the arguments, else in the environment; `None` if `load_config` must find or refuse it.

    That is so if the environment has any other setting, or a value is wrong.

    Args:
        environ: The variables.
        redis_url: Overrides the variable of the same name.
        namespace: Overrides the variable of the same name.
    """
    given = {
        name.removeprefix(ENV_PREFIX): text
        for name, value in environ.items()
        if name.startswith(ENV_PREFIX) and (text := value.strip())
    }
    from_env = given.pop("REDIS_URL", DEFAULT_REDIS_URL), given.pop("NAMESPACE", DEFAULT_NAMESPACE)
    name = from_env[1] if namespace is None else namespace
    if given or not NAMESPACE_PATTERN.fullmatch(name):
        return None
    try:
        return PlainAddress(check_redis_url(from_env[0] if redis_url is None else redis_url), name)
    except ConfigError:
        return None
