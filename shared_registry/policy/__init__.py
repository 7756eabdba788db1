"""Selection policies: which of the replicas that may be selected takes the next session. Pure, no I/O.

They do their work when the mirror changes, so that little is left to do when a session comes.
"""

from shared_registry.policy.panic import Panic, find_panic
from shared_registry.policy.priority import priority
from shared_registry.policy.selection import POLICY_NAMES, PolicyName, Selection

__all__ = ["POLICY_NAMES", "Panic", "PolicyName", "Selection", "find_panic", "priority"]
