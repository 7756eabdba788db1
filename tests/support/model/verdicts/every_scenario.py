"""All directed scenarios by name: each is one kind of trouble that a rule is there for, varied by the seed."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.scenarios import (
    appeals,
    asking,
    crowds,
    hand_overs,
    own_trouble,
    questions,
    session_trouble,
    sharing,
)
from tests.support.model.verdicts.settings import Rules

SCENARIOS: dict[str, Callable[[int, Rules], Recorder]] = {
    name: scenario
    for module in (asking, questions, own_trouble, hand_overs, appeals, crowds, session_trouble, sharing)
    for name, scenario in vars(module).items()
    if getattr(scenario, "__module__", "") == module.__name__ and not name.startswith("_")
}
