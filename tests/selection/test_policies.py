"""Policies are registered by name, by applications and by packages that are installed beside."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Iterator
from importlib.metadata import EntryPoint

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.errors import ConfigError, UsageError
from shared_registry.model import Replica
from shared_registry.selection import Members, PolicyContext, policies, register_policy
from tests.support.choices import record, shown


class Last:
    """Always the last member."""

    def __init__(self, context: PolicyContext) -> None:
        self.context = context
        self.members = Members()

    def update(self, members: Members) -> None:
        self.members = members

    def choose(self, key: str | None) -> Replica | None:
        return self.choose_except(key, ())

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:
        able = [replica for replica in self.members.replicas if replica.key not in excluded]
        return able[-1] if able else None

    def recount(self) -> None:
        pass


class Other(Last):
    """Another policy."""


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(policies._policies)
    yield
    policies._policies.clear()
    policies._policies.update(before)


def selected(policy: str, *, own: str = "priority") -> str | None:
    registry = SharedReplicaRegistry(RouterConfig(policy=own))
    shown(registry._view, *(record(number) for number in range(3)))
    replica = registry.select(policy=None if policy == own else policy)
    return replica.key if replica else None


@pytest.mark.parametrize("own", ["priority", "last"])
def test_an_applications_own_policy_is_used_by_its_name(own: str) -> None:
    register_policy("last", Last)
    assert selected("last", own=own) == record(2).key


def test_a_package_offers_a_policy_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoint("last", f"{__name__}:Last", policies.ENTRY_POINTS)
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda *, group, name: [offered] if (group, name) == (offered.group, "last") else [],
    )
    assert selected("last", own="last") == record(2).key


@pytest.mark.parametrize("needs_loads", [True, lambda context: context.hash_max_load == 2.0])
def test_loads_are_read_for_a_policy_that_needs_them(needs_loads: bool) -> None:
    register_policy("last", Last, needs_loads=needs_loads)
    registry = SharedReplicaRegistry(RouterConfig(policy="last", hash_max_load=2.0))
    assert registry._view.selection.uses_loads


def test_a_policy_name_can_be_registered_only_once() -> None:
    register_policy("last", Last)
    register_policy("last", Last)
    with pytest.raises(UsageError, match="'last' is registered already; choose another name"):
        register_policy("last", Other)
    for name in ("Last", "", "last-one", "a" * 65):
        with pytest.raises(UsageError, match="lower-case letters"):
            register_policy(name, Last)


def test_an_unknown_policy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"policy: 'least_load' is not among .*did you mean 'least_loaded'"):
        RouterConfig(policy="least_load")
    with pytest.raises(ConfigError, match="policy: must be a name such as 'round_robin', got 7"):
        RouterConfig(policy=7)  # type: ignore[arg-type]
