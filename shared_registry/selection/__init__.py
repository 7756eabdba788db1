"""Selection policies: which of the replicas that may be selected takes the next session. Pure, no I/O.

They do their work when the mirror changes, so that little is left to do when a session comes.
"""

from shared_registry.selection import hash_ring, least_loaded, round_robin  # noqa: F401  as `priority`, they register themselves
from shared_registry.selection.members import Members, Picker
from shared_registry.selection.panic import Panic, find_panic
from shared_registry.selection.policies import Policy, PolicyContext, find_policy, policy_names, register_policy
from shared_registry.selection.priority import priority
from shared_registry.selection.selector import Selection

__all__ = [
    "Members",
    "Panic",
    "Picker",
    "Policy",
    "PolicyContext",
    "Selection",
    "find_panic",
    "find_policy",
    "policy_names",
    "priority",
    "register_policy",
]
