"""Discovery: the leader learns from files, DNS names and Kubernetes which replicas there are.

Each source gives whole answers: all replicas that it has now. `following.py` compares an answer with what the registry
has of that source, and registers, updates, drains and removes. Only the leader does that, and Redis refuses what an
earlier leader writes.
"""

from shared_registry.discovery.answer import DiscoverySource, Found, SourceAnswer
from shared_registry.discovery.duty import Discovery
from shared_registry.discovery.following import FollowedSource

__all__ = ["Discovery", "DiscoverySource", "FollowedSource", "Found", "SourceAnswer"]
