"""How much the random tests of this folder try: little by default, much with HYPOTHESIS_PROFILE=long."""

from __future__ import annotations

import os

import hypothesis
import pytest
from hypothesis import HealthCheck

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
TIMEOUT_SECONDS, LONG_TIMEOUT_SECONDS = 240, 3600


def effort(*, examples: int, steps: int = 1) -> hypothesis.settings:
    """Return settings for that many examples by default; many times as many, and longer ones, in the long profile."""
    return hypothesis.settings(
        max_examples=examples * 20 if IS_LONG else examples,
        stateful_step_count=steps * 2 if IS_LONG else steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


takes_long = pytest.mark.timeout(LONG_TIMEOUT_SECONDS if IS_LONG else TIMEOUT_SECONDS)
