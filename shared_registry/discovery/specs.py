"""The spec of a replica of which a source knows the address only."""

from __future__ import annotations

import ipaddress

from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.config.rules import validate_endpoint
from shared_registry.model import Labels, ReplicaEndpoint


def endpoint_of(rule: DiscoveryRule, address: str, port: int | str, *, name: str | None = None) -> ReplicaEndpoint:
    """Return the spec of a replica.

    Args:
        rule: The source, with what is common to its replicas.
        address: An IP address.
        port: The port.
        name: The replica's name.

    Raises:
        ValueError: The address is none.
        ConfigError: The port is none, or the name cannot be one.
    """
    parsed = ipaddress.ip_address(address)
    host = f"[{parsed}]" if parsed.version == 6 else str(parsed)
    return validate_endpoint(
        ReplicaEndpoint(
            f"{rule.scheme}://{host}:{port}",
            name,
            primary=rule.primary,
            weight=rule.weight,
            capacity=rule.capacity,
            labels=Labels(rule.labels),
        ),
        f"replica {address}",
    )
