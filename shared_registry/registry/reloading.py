"""Gives a registry changed settings while it runs."""

from __future__ import annotations

from shared_registry.config import RouterConfig
from shared_registry.config.reload_rules import HEALTH_CHECK_SETTINGS, Reloaded, merge
from shared_registry.registry import seeding
from shared_registry.registry.state import RegistryState


class RegistryReload(RegistryState):
    """The method that changes settings."""

    def reload(self, config: object) -> Reloaded:
        """Use changed settings from now on, as far as they can change while the registry runs. It does no I/O.

        The health checks begin anew if one of their settings has changed; if this router is the leader, it resigns
        before that, and campaigns again. Replicas that are new or have changed are registered in the background by the
        rules of `start()`, also if Redis is away now. Replicas that the config no longer has stay registered. Leases,
        sessions and waiters are not affected. The fingerprint of this router's settings follows.

        Args:
            config: A `RouterConfig`, or any object with the attributes of FastVideo's router config.

        Returns:
            What has changed, and what needs a new registry to change.

        Raises:
            ConfigError: A setting is wrong, or settings do not fit together. Then nothing has changed.
        """
        result = merge(self.config, RouterConfig.adopt(config))
        self.config = config = result.config
        parts, changed = self._parts, frozenset(result.changed)
        if changed & HEALTH_CHECK_SETTINGS:
            parts.membership.reload(config)
            parts.health_checks.reload()
        if "local_cooldown_seconds" in changed:
            parts.cooldown.reload(config.local_cooldown_seconds)
        if "replicas" in changed:
            seeding.log(seeding.departed(result.before, config))
            parts.seeding.ask(config)
        return result
