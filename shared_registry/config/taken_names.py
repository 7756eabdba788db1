"""A name is for one replica, so that a command that names it means one."""

from __future__ import annotations

from collections.abc import Iterable

from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint


def refuse_taken_name(key: str, endpoint: ReplicaEndpoint, registered: Iterable[tuple[str, ReplicaEndpoint]]) -> None:
    """Check the name of a replica that is to be registered.

    Args:
        key: Its canonical url.
        endpoint: Its spec.
        registered: The registered replicas by canonical url. If they have names twice, from an earlier version or from
            two config files, a replica may keep the name that it has.

    Raises:
        ConfigError: Another replica has the name. The message names both urls.
    """
    if not endpoint.name:
        return
    holders = {other: spec.url for other, spec in registered if spec.name == endpoint.name}
    if holders and key not in holders:
        raise ConfigError(
            f"{endpoint.url} cannot be named {endpoint.name!r}: {next(iter(holders.values()))} has this name; "
            "choose another one, or rename or remove that replica first"
        )
