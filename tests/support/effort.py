"""How much random tests try: by HYPOTHESIS_PROFILE, `ci` where CI=true, `quick` elsewhere, `long` when asked for."""

from __future__ import annotations

import os

import hypothesis
import pytest
from hypothesis import HealthCheck

PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "quick")
IS_LONG = PROFILE == "long"
SHARES = {"quick": 0.25, "ci": 1.0, "long": 20.0}
"""How many times the examples of a test each profile tries."""
TIMEOUT_SECONDS, LONG_TIMEOUT_SECONDS = 240, 3600


def use_profile() -> None:
    """Let tests that do not say themselves how much they try try less, where the profile is `quick`.

    No profile bounds the time of an example, which a busy machine may hold up. That of hypothesis for CI does not.
    """
    if PROFILE != "ci":
        hypothesis.settings.register_profile(
            PROFILE,
            max_examples=30 if PROFILE == "quick" else 100,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        hypothesis.settings.load_profile(PROFILE)


def some_of(number: int) -> int:
    """Return how many of so many random things the profile does; never more of them."""
    return max(1, round(number * min(SHARES[PROFILE], 1.0)))


def effort(*, examples: int, steps: int = 1) -> hypothesis.settings:
    """Return settings for that many examples in CI; for a share of them in `quick`, for more, and longer, in `long`."""
    return hypothesis.settings(
        max_examples=max(1, round(examples * SHARES[PROFILE])),
        stateful_step_count=steps * 2 if IS_LONG else steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


takes_long = pytest.mark.timeout(LONG_TIMEOUT_SECONDS if IS_LONG else TIMEOUT_SECONDS)
