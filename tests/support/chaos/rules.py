"""The invariants of verdicts, checked on the history of one run.

Bounds are those of the rules themselves. What is added is written down where it is added: `History.noise` for a busy
machine; and no time counts in which the routers that a bound is about could not work.
"""

from __future__ import annotations

from tests.support.chaos import costs, liveness, safety
from tests.support.chaos.history import History

RULES = (
    safety.verdicts_have_failures,
    safety.verdicts_have_asked,
    safety.questions_have_failures,
    safety.leaders_are_fenced,
    safety.ejections_have_witnesses,
    safety.ready_sets_follow_status,
    safety.capacity_holds,
    liveness.the_dead_are_unhealthy,
    liveness.the_reached_are_healthy,
    liveness.selects_find_what_is_reached,
    liveness.somebody_leads,
    liveness.the_wrong_resign,
    costs.questions_keep_a_distance,
    costs.the_wrong_hand_over,
    costs.questions_end,
)


def violations(history: History) -> list[str]:
    """Return everything that contradicts a rule, with seconds since the begin."""
    return [f"{rule.__name__}: {text}" for rule in RULES for text in rule(history)]
