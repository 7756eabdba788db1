"""The settings of a router as a whole.

Build a `RouterConfig` in Python, `adopt()` the config object of another router, or read one with
`shared_registry.config.sources`. Every `RouterConfig` is valid: the constructor raises a `ConfigError` that lists all
wrong values. This module reads neither files nor the environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from shared_registry.config.pool_rules import PoolRule
from shared_registry.config.pool_settings import pool_configs
from shared_registry.config.probe_rules import ANY_SUCCESS
from shared_registry.config.problems import InvalidSettings, Problem, in_one_error
from shared_registry.config.registry_settings import RegistrySettings
from shared_registry.config.rules import CHECKS, validate_endpoint
from shared_registry.config.serving_settings import ServingSettings
from shared_registry.model import EjectionLimits, Thresholds
from shared_registry.store.redis_url import mask_redis_url

__all__ = ["SHARED_SETTINGS", "InvalidSettings", "Problem", "RouterConfig", "validate_endpoint"]

SHARED_SETTINGS = (
    "health_check_path",
    "health_check_interval_seconds",
    "health_check_timeout_seconds",
    "failure_threshold",
    "recovery_threshold",
    "health_check_expect",
    "fast_interval_seconds",
    "health_check_type",
    "health_check_port",
    "health_check_method",
    "health_check_headers",
    "health_check_request_body",
    "health_check_statuses",
    "health_check_expect_text",
    "health_check_expect_pattern",
    "lease_seconds",
    "renew_interval_seconds",
    "heartbeat_seconds",
    "router_expiry_seconds",
    "affinity_seconds",
    "max_queue",
    "panic_percent",
    "max_ejection_percent",
    "base_ejection_seconds",
    "ejection_failures",
    "hold_grace_seconds",
    "slow_start_seconds",
    "probing",
)
"""Settings that should be equal on all routers of a registry.

Any router may become the leader, and every router decides whether another one has expired.
"""
DEFAULT_PANIC_PERCENT = 50.0


@in_one_error
@dataclass(frozen=True, repr=False, config=CHECKS)
class RouterConfig(ServingSettings, RegistrySettings):
    """All settings of one router. Immutable; `dataclasses.replace` makes a changed copy and checks it again.

    Durations are float seconds. Wrong values raise a `ConfigError` that lists all of them. It is also a `ValueError`.
    """

    @model_validator(mode="after")
    def _pools_are_valid(self) -> RouterConfig:
        self.pool_configs()
        return self

    def pool_configs(self) -> dict[str, RouterConfig]:
        """Return the config of each pool by its name; empty without the setting `pools`."""
        return pool_configs(self)

    @classmethod
    def adopt(cls, source: object) -> RouterConfig:
        """Return a config made from the attributes of any object, such as another router's config.

        A missing attribute takes its default, and other attributes are ignored. A `RouterConfig` is returned unchanged.

        Raises:
            ConfigError: A value is wrong, or the object has no attribute that is a setting.
        """
        if isinstance(source, RouterConfig):
            return source
        names = [] if isinstance(source, type) else [name for name in _names() if hasattr(source, name)]
        if not names:
            text = f"config: {type(source).__name__} has no setting such as host or replicas; pass a RouterConfig"
            raise InvalidSettings([Problem(text)])
        return cls(**{name: getattr(source, name) for name in names})

    @property
    def effective_fast_interval_seconds(self) -> float:
        """The shorter of `fast_interval_seconds` and `health_check_interval_seconds`."""
        return min(self.fast_interval_seconds, self.health_check_interval_seconds)

    def thresholds(self, *, failure: int | None = None, recovery: int | None = None) -> Thresholds:
        """Return the thresholds and times of health checks; the arguments replace the settings of the same name."""
        return Thresholds(
            self.failure_threshold if failure is None else failure,
            self.recovery_threshold if recovery is None else recovery,
            interval_seconds=self.health_check_interval_seconds,
            timeout_seconds=self.health_check_timeout_seconds,
        )

    @property
    def ejection_limits(self) -> EjectionLimits:
        """When a replica is ejected, and for how long."""
        return EjectionLimits(self.max_ejection_percent, self.base_ejection_seconds, self.ejection_failures)

    @property
    def effective_panic_percent(self) -> float:
        """The percentage for `acquire()` and the queue: `panic_percent`, or 50 if that is not set."""
        return DEFAULT_PANIC_PERCENT if self.panic_percent is None else self.panic_percent

    def fingerprint(self) -> str:
        """Return 12 hex digits that are equal for equal `SHARED_SETTINGS`, on every machine and Python version.

        Settings that earlier versions do not know count only if they are set.
        """
        agreed = {name: getattr(self, name) for name in SHARED_SETTINGS}
        agreed = {name: value for name, value in agreed.items() if name not in _LATER or value != _LATER[name]}
        agreed["fast_interval_seconds"] = self.effective_fast_interval_seconds
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:12]

    def shown(self) -> dict[str, Any]:
        """Return all settings in JSON's types, with passwords masked, for display."""
        return asdict(self) | self._masked()

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in _names()} | self._masked()
        return f"RouterConfig({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    def _masked(self) -> dict[str, Any]:
        found = {"redis_url": self.redis_url, "health_check_headers": self.health_check_headers}
        keys = [f"{key.name}: ***" for key in self.api_keys]
        tokens = [f"{token.name}: *** {' '.join(sorted(token.rights))}" for token in self.admin_tokens]
        found = _masked(found) | {"api_keys": keys, "admin_tokens": tokens}
        return {**found, "pools": [_shown_pool(pool) for pool in self.pools]}


_LATER: dict[str, object] = {
    "health_check_type": "http",
    "health_check_port": None,
    "health_check_method": "GET",
    "health_check_headers": {},
    "health_check_request_body": None,
    "health_check_statuses": ANY_SUCCESS,
    "health_check_expect_text": None,
    "health_check_expect_pattern": None,
    "max_ejection_percent": 50.0,
    "base_ejection_seconds": 30.0,
    "ejection_failures": 5,
    "hold_grace_seconds": 5.0,
    "probing": "leader",
}
"""Shared settings that were added after the first release, with their defaults."""


def _masked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the passwords in them masked."""
    found = dict(settings)
    if "redis_url" in found:
        found["redis_url"] = mask_redis_url(found["redis_url"])
    if "health_check_headers" in found:
        headers = found["health_check_headers"].items()
        found["health_check_headers"] = {name: text if name.lower() == "host" else "***" for name, text in headers}
    return found


def _shown_pool(pool: PoolRule) -> dict[str, Any]:
    """Return a pool as the setting `pools` holds it, with passwords masked."""
    given = {key: value for key, value in asdict(pool).items() if value and key != "settings"}
    return given | _masked(asdict(pool)["settings"])


def _names() -> list[str]:
    return [setting.name for setting in fields(RouterConfig)]
