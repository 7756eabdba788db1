"""What the model of verdicts is told: times in milliseconds, thresholds, and which rules are in force."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.model.verdicts.rules import RULES


@dataclass(frozen=True)
class Settings:
    """The defaults are those of `RouterConfig`."""

    interval: int = 5000
    fast: int = 1000
    timeout: int = 2000
    failure: int = 3
    recovery: int = 2
    lease: int = 3000
    renew: int = 1000
    expiry: int = 5000
    heartbeat: int = 1000
    is_shared: bool = False
    handicap_leases: int = 10
    fresh_every: int = 6
    asked_at_most: int = 3
    grace: int = 750
    changes_at_once: int = 50
    urls_an_event: int = 50
    answers_at_once: int = 64
    ejection: int = 30_000
    run: int = 5
    objection: int = 1000
    ejection_percent: int = 50
    panic_percent: int = 50
    answered_within: int = 3_600_000

    @property
    def suspects_at(self) -> int:
        """Failures in a row after which peers are asked."""
        return max(1, self.failure - 1)

    @property
    def young(self) -> int:
        """For how long after a verdict one success of a peer is enough."""
        return self.interval * self.failure

    @property
    def word(self) -> int:
        """For how long the last result of a router that a replica was handed to counts."""
        return 2 * self.interval + self.timeout


@dataclass(frozen=True)
class Rules:
    """The rules in force: all of them but the named ones."""

    without: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if unknown := self.without - RULES.keys():
            raise ValueError(f"no such rule: {sorted(unknown)}")

    def has(self, name: str) -> bool:
        return name not in self.without


ALL_RULES = Rules()
