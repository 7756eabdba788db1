"""Makes the source that a rule of the setting `discovery` describes."""

from __future__ import annotations

from shared_registry.config import RouterConfig
from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.discovery.answer import DiscoverySource
from shared_registry.discovery.file import FileSource


def make_source(rule: DiscoveryRule, config: RouterConfig) -> DiscoverySource:  # noqa: ARG001
    """Return the source of a rule.

    Raises:
        MissingExtra: It needs a package that is not installed.
    """
    return FileSource(rule)
