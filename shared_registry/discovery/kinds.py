"""Makes the source that a rule of the setting `discovery` describes."""

from __future__ import annotations

from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.discovery.answer import DiscoverySource
from shared_registry.discovery.file import FileSource
from shared_registry.extras import require_extra

EXTRA = "discovery"


def make_source(rule: DiscoveryRule) -> DiscoverySource:
    """Return the source of a rule.

    Raises:
        MissingExtra: It needs a package that is not installed.
    """
    if rule.kind == "dns":
        require_extra(EXTRA, "dns")
        from shared_registry.discovery.dns import DnsSource  # noqa: PLC0415  an extra

        return DnsSource(rule)
    if rule.kind == "kubernetes":
        require_extra(EXTRA, "httpx")
        from shared_registry.discovery.kubernetes import KubernetesSource  # noqa: PLC0415  an extra

        return KubernetesSource(rule)
    return FileSource(rule)
