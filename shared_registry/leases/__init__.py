"""Exact placement: leases on slots, which survive crashes, outages and lost replies without a guessed time to live."""

from shared_registry.leases.lease import Lease
from shared_registry.leases.leases import Placement
from shared_registry.leases.queue import OnPosition

__all__ = ["Lease", "OnPosition", "Placement"]
