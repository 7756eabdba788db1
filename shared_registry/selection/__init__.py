"""Selection policies: they choose the replica for the next session among the selectable ones. Pure, no I/O.

The policies do most of their work when the mirror changes, so that a selection is cheap.
"""

from shared_registry.selection import hash_ring, least_loaded, priority, round_robin  # noqa: F401  each import registers a policy
from shared_registry.selection.members import Members, Picker
from shared_registry.selection.panic import Panic
from shared_registry.selection.policies import Policy, PolicyContext, find_policy, policy_names, register_policy
from shared_registry.selection.selector import Selection

__all__ = [
    "Members",
    "Panic",
    "Picker",
    "Policy",
    "PolicyContext",
    "Selection",
    "find_policy",
    "policy_names",
    "register_policy",
]
