"""Reads what a router's own pages show, without a router."""

from __future__ import annotations

import json
from typing import Any

from shared_registry.proxy.shown_replicas import ShownReplicas
from shared_registry.registry.facade import SharedReplicaRegistry


async def shown_replicas(registry: SharedReplicaRegistry) -> list[dict[str, Any]]:
    """Return the replicas as `/status` shows them."""
    found: list[dict[str, Any]] = json.loads(b"".join([b"[", *await ShownReplicas(registry).pieces(), b"]"]))
    return found
