"""Exact placement of sessions by leases on slots.

Leases stay correct through crashes, outages and lost replies, and need no guessed time to live.
"""

from shared_registry.leases.lease import Lease
from shared_registry.leases.leases import Placement
from shared_registry.leases.queue import OnPosition

__all__ = ["Lease", "OnPosition", "Placement"]
