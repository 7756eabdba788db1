"""The public names, and that each of them says what it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

import shared_registry
from shared_registry import fastvideo

EXPORTED = {
    shared_registry: [
        "AdminState",
        "Announcement",
        "ConfigError",
        "Event",
        "EventKind",
        "Fenced",
        "Happening",
        "HttpProbe",
        "KeyConflict",
        "Leader",
        "Lease",
        "Listener",
        "NoHealthyReplica",
        "RegistryError",
        "Replica",
        "ReplicaClaimed",
        "ReplicaEndpoint",
        "ReplicaHealth",
        "ReplicaStatus",
        "RouterConfig",
        "Saturated",
        "Settling",
        "SharedReplicaRegistry",
        "SlotMigrating",
        "StoreError",
        "StoreRefused",
        "StoreUnavailable",
        "UnknownReplica",
        "UsageError",
        "Violation",
        "__version__",
        "happenings",
    ],
    fastvideo: [
        "HttpProbe",
        "Replica",
        "ReplicaEndpoint",
        "ReplicaHealth",
        "ReplicaRegistry",
        "ReplicaStatus",
        "RouterConfig",
        "run_health_check_loop",
    ],
}
MODULES = list(EXPORTED)


def members(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield everything that is exported and, of the classes that are ours, every public member."""
    for name in EXPORTED[module]:
        exported = getattr(module, name)
        if not isinstance(exported, str):
            yield name, exported
        if inspect.isclass(exported):
            for member, value in vars(exported).items():
                if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_exactly_these_names_are_exported(module: ModuleType) -> None:
    assert module.__all__ == EXPORTED[module]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_exported_name_exists(module: ModuleType) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {module.__name__} import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(EXPORTED[module])


MEMBERS = [(f"{module.__name__}.{name}", member) for module in MODULES for name, member in members(module)]


@pytest.mark.parametrize(("name", "member"), MEMBERS, ids=[name for name, _ in MEMBERS])
def test_every_exported_thing_has_a_docstring(name: str, member: object) -> None:
    assert member.__doc__
    assert not member.__doc__.startswith(f"{name.rpartition('.')[2]}("), "what a dataclass says for want of a docstring"


def test_a_name_that_both_export_is_the_same_object() -> None:
    for name in set(EXPORTED[shared_registry]) & set(EXPORTED[fastvideo]):
        assert getattr(shared_registry, name) is getattr(fastvideo, name)


def test_the_version_is_defined_once() -> None:
    assert all(part.isdigit() for part in shared_registry.__version__.split(".")[:2])
