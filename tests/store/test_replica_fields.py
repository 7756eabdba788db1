"""What Lua, the model and the documentation say of a replica's fields is what the table says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from lupa import lua51

from shared_registry.model import AdminState, Doubt, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.store.lua import LUA_DIR
from shared_registry.store.replica_fields import (
    FIELDS,
    HEALTH_NAMES,
    HELD_BY,
    ONLY_FOR_SCRIPTS,
    Document,
    documented,
    spec_text,
)

DOCS = Path(__file__).parents[2] / "docs"
NAMES = [field.name for field in FIELDS]
PARTS = {"key", "endpoint", "health", "doubt"}
"""Of a record: not fields of its hash."""


@pytest.mark.parametrize("holder", [ReplicaEndpoint, ReplicaHealth, Doubt, ReplicaRecord])
def test_every_attribute_of_the_model_has_one_row(holder: type) -> None:
    attributes = {one.name for one in dataclasses.fields(holder)} - PARTS
    assert sorted(field.attribute for field in HELD_BY[holder]) == sorted(attributes)


def test_no_field_name_occurs_twice() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert not set(NAMES) & set(ONLY_FOR_SCRIPTS)
    for which in (Document.STATUS, Document.EVENT):
        assert len(set(documented(which))) == len(documented(which))


def test_only_fields_with_a_default_may_be_missing() -> None:
    for field in FIELDS:
        if not field.is_required:
            [attribute] = [one for one in dataclasses.fields(field.holder) if one.name == field.attribute]
            assert attribute.default is not dataclasses.MISSING, field.name


def test_lua_leaves_the_same_fields_out_of_events() -> None:
    text = (LUA_DIR / "lib" / "events.lua").read_text()
    [table] = re.findall(r"local NOT_IN_EVENTS = (\{[^}]*\})", text)
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    left_out = {field.name for field in FIELDS if not field.is_in_events}
    assert set(lua.eval(table)) == left_out | set(ONLY_FOR_SCRIPTS)


def test_lua_numbers_a_replicas_state_as_it_lists_it() -> None:
    text = (LUA_DIR / "lib" / "ready.lua").read_text()
    [listed] = re.findall(r"local STATE_FIELDS = \{([^}]*)\}", text)
    [names, numbers] = re.findall(r"local (STATUS, [A-Z_,\s]+?)\s*=\s*([\d, ]+)\n", text)[0]
    fields = re.findall(r"'(\w+)'", listed)
    assert [name.lower() for name in re.findall(r"\w+", names)] == fields
    assert [int(number) for number in numbers.split(",")] == list(range(1, len(fields) + 1))
    assert set(fields) <= set(NAMES)


def test_lua_uses_only_existing_fields() -> None:
    """Fields that scripts name right behind a replica's key; those that are composed of others are in variables."""
    known = {*NAMES, *ONLY_FOR_SCRIPTS}
    calls = re.compile(
        r"'H(?:GET|MGET|SET|SETNX|DEL|INCRBY|EXISTS)',\s*(?:replica(?:_key)?|keys\.replica_prefix \.\. \w+),([^)]*)"
    )
    found: set[str] = set()
    for path in LUA_DIR.rglob("*.lua"):
        for words in calls.findall(path.read_text()):
            found |= set(re.findall(r"'([a-z_]+)'", words))
    assert len(found) > 15
    values = {one.value for kind in (ReplicaStatus, AdminState) for one in kind}
    assert found - values <= known


def test_the_page_about_redis_lists_every_field() -> None:
    page = (DOCS / "redis-keys.md").read_text(encoding="utf-8")
    section = page.partition("\n## A replica's hash\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]
    listed = [name for row in rows for cell in re.findall(r"`([^`]+)`", row) for name in cell.split()]
    assert sorted(listed) == sorted([*NAMES, *ONLY_FOR_SCRIPTS])


@pytest.mark.parametrize(
    ("page", "which", "others"),
    [
        ("cli.md", Document.STATUS, {"trouble"}),  # `status` says in words what is wrong with a replica
        ("cli.md", Document.EVENT, set()),
        ("router.md", Document.STATUS, set()),
    ],
)
def test_the_pages_about_json_list_its_names(page: str, which: Document, others: set[str]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    lists = [re.findall(r"\w+", words) for words in re.findall(r"\{(\"?url\"?,[^}]*)\}", text)]
    assert sorted({*documented(which), *others}) in [sorted(names) for names in lists]


def test_an_endpoint_is_described_in_words() -> None:
    assert spec_text(ReplicaEndpoint("http://a")) == "secondary, weight 1, capacity unlimited"
    assert spec_text(ReplicaEndpoint("http://a", "x", primary=True, weight=0.5, capacity=2)) == (
        "primary, weight 0.5, capacity 2"
    )


def test_health_fields_are_those_that_probes_write() -> None:
    assert set(HEALTH_NAMES) == {
        *("status", "status_since_ms", "consecutive_failures", "consecutive_successes"),
        *("last_ok_at_ms", "last_failure_at_ms", "last_latency_ms", "last_error"),
    }
