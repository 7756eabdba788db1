"""Which settings a running router can change, and what becomes of a config that was read again."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from shared_registry.config.problems import shorten
from shared_registry.config.settings import RouterConfig

HEALTH_CHECK_SETTINGS = frozenset(
    {
        "health_check_path",
        "health_check_interval_seconds",
        "health_check_timeout_seconds",
        "failure_threshold",
        "recovery_threshold",
        "health_check_expect",
        "health_check_expect_text",
        "health_check_expect_pattern",
        "health_check_statuses",
        "health_check_type",
        "health_check_port",
        "health_check_method",
        "health_check_headers",
        "health_check_request_body",
        "replica_tls_ca_file",
        "replica_tls_certificate_file",
        "replica_tls_key_file",
        "replica_tls_server_name",
        "replica_tls_verify",
        "lease_seconds",
        "renew_interval_seconds",
        "fast_interval_seconds",
        "probing",
        "may_lead",
        "probe_concurrency",
        "slow_start_seconds",
        "discovery",
    }
)
"""Settings of probes and of the leader. If one of them changes, the health checks begin anew with the new values."""
SERVING_SETTINGS = frozenset(
    {
        "connect_timeout_seconds",
        "response_timeout_seconds",
        "first_byte_timeout_seconds",
        "total_timeout_seconds",
        "max_body_bytes",
        "max_clients",
        "replica_idle_seconds",
        "header_timeout_seconds",
        "routes",
        "placement",
        "session_key",
        "on_lost",
        "queue_timeout_seconds",
        "max_frame_bytes",
        "websocket_ping_seconds",
        "grace_seconds",
        "log_level",
        "trusted_proxies",
        "cors_origins",
    }
)
"""Settings of the router's own server that apply to sessions which begin after the change."""
RELOADABLE = HEALTH_CHECK_SETTINGS | SERVING_SETTINGS | {"replicas", "local_cooldown_seconds"}
"""The settings that can change while a router runs. All others need a restart."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The result of reading the settings again.

    Attributes:
        before: The config that was in force.
        wanted: The config that was read.
        config: The config in force now: `before` with the new values of the settings that can change.
        changed: The settings that took effect.
        postponed: The settings that differ, and need a restart.
    """

    before: RouterConfig
    wanted: RouterConfig
    config: RouterConfig
    changed: tuple[str, ...]
    postponed: tuple[str, ...]

    def lines(self) -> list[tuple[str, str]]:
        """Return each setting that differs, with a line about it in which secrets are masked."""
        old, new = self.before.shown(), self.wanted.shown()
        lines = []
        for name in self.changed:
            is_shown = name != "replicas" and old[name] != new[name]  # masked values are equal
            values = f" {shorten(old[name])} -> {shorten(new[name])}" if is_shown else ""
            lines.append((name, f"{name}:{values} took effect"))
        lines += [(name, f"{name}: needs a restart; still {shorten(old[name])}") for name in self.postponed]
        return lines


def merge(before: RouterConfig, wanted: RouterConfig) -> Reloaded:
    """Return what changes if a running router is given another config.

    Raises:
        ConfigError: What can change does not fit together with what needs a restart.
    """
    differing = [item.name for item in fields(before) if getattr(before, item.name) != getattr(wanted, item.name)]
    can_change = RELOADABLE | {"pools"} if _namespaces(before) == _namespaces(wanted) else RELOADABLE
    changed = tuple(name for name in differing if name in can_change)
    postponed = tuple(name for name in differing if name not in can_change)
    config = replace(before, **{name: getattr(wanted, name) for name in changed}) if changed else before
    return Reloaded(before, wanted, config, changed, postponed)


def merge_all(before: RouterConfig, wanted: RouterConfig) -> list[tuple[str, Reloaded]]:
    """Return what changes for the router, under an empty name, and for each of its pools.

    Raises:
        ConfigError: See `merge`.
    """
    whole = merge(before, wanted)
    old, new = before.pool_configs(), whole.config.pool_configs()
    return [("", whole), *((name, merge(old[name], new[name])) for name in old)]


def _namespaces(config: RouterConfig) -> list[tuple[str, str, str]]:
    """Return what a change of `pools` must leave as it is: which pools there are, and where their state is."""
    return [(name, one.redis_url, one.namespace) for name, one in config.pool_configs().items()]
