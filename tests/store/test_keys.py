"""How keys are spelled: other programs and redis-cli sessions rely on it."""

from __future__ import annotations

import re

import pytest
from redis.crc import key_slot

from shared_registry.errors import ConfigError
from shared_registry.store import keys as keys_module
from shared_registry.store.keys import Keys

SPELLED = {
    "meta": ("sr:{a.B-1_}:meta", "hash"),
    "replicas": ("sr:{a.B-1_}:replicas", "zset"),
    "removed": ("sr:{a.B-1_}:removed", "zset"),
    "ready_primary": ("sr:{a.B-1_}:ready:primary", "zset"),
    "ready_secondary": ("sr:{a.B-1_}:ready:secondary", "zset"),
    "full": ("sr:{a.B-1_}:full", "set"),
    "spare_primary": ("sr:{a.B-1_}:spare:primary", "zset"),
    "spare_secondary": ("sr:{a.B-1_}:spare:secondary", "zset"),
    "spare_answered": ("sr:{a.B-1_}:spare:answered", "zset"),
    "ejected": ("sr:{a.B-1_}:ejected", "zset"),
    "names": ("sr:{a.B-1_}:names", "hash"),
    "announced": ("sr:{a.B-1_}:announced", "zset"),
    "departing": ("sr:{a.B-1_}:departing", "zset"),
    "admin_by_name": ("sr:{a.B-1_}:admin_by_name", "hash"),
    "leader": ("sr:{a.B-1_}:leader", "hash"),
    "settling": ("sr:{a.B-1_}:settling", "zset"),
    "routers": ("sr:{a.B-1_}:routers", "zset"),
    "moved": ("sr:{a.B-1_}:moved", "zset"),
    "probers": ("sr:{a.B-1_}:probers", "zset"),
    "plan": ("sr:{a.B-1_}:plan", "hash"),
    "queue": ("sr:{a.B-1_}:queue", "zset"),
    "events": ("sr:{a.B-1_}:events", "stream"),
}


@pytest.mark.parametrize("name", SPELLED)
def test_every_key_has_its_documented_name_and_type(name: str) -> None:
    keys = Keys("a.B-1_")
    spelled, kind = SPELLED[name]
    assert getattr(keys, name) == spelled
    assert keys.expected_type(spelled) == kind


def test_every_key_is_tested_above() -> None:
    keys = Keys("a.B-1_")
    named = {name for name in vars(keys) if not name.endswith("prefix")} - {"namespace"}
    assert named == set(SPELLED)


def test_each_replica_and_router_has_its_own_key() -> None:
    keys = Keys("ns")
    assert keys.replica("http://[::1]:80") == "sr:{ns}:replica:http://[::1]:80"
    assert keys.router("a~1") == "sr:{ns}:router:a~1"
    assert keys.replica("") == keys.replica_prefix
    assert keys.router("") == keys.router_prefix
    assert keys.inbox("a~1") == "sr:{ns}:inbox:a~1"
    assert keys.expected_type(keys.inbox("a~1")) == "stream"
    assert keys.expected_type(keys.replica("http://a")) == keys.expected_type(keys.router("a~1")) == "hash"


@pytest.mark.parametrize("key", ["sr:{ns}:other", "sr:{ns}:", "sr:{other}:meta", "sr:{ns}:meta:x", "meta", ""])
def test_a_foreign_key_has_no_type(key: str) -> None:
    assert Keys("ns").expected_type(key) is None


def test_all_keys_of_a_namespace_live_in_one_slot() -> None:
    keys = Keys("default")
    spelled = [*(getattr(keys, name) for name in SPELLED), keys.replica("http://{a}b"), keys.router("{x}~1")]
    assert {key_slot(key.encode()) for key in spelled} == {key_slot(b"default")}


def test_the_map_of_the_keyspace_is_complete() -> None:
    documented = dict(re.findall(r"^ {4}sr:\{<ns>\}:(\S+)\s+(\w+) ", keys_module.__doc__ or "", re.MULTILINE))
    prefix = "sr:{a.B-1_}:"
    wanted = {spelled.removeprefix(prefix): kind for spelled, kind in SPELLED.values()}
    assert documented == wanted | {
        "replica:<url>": "hash",
        "router:<key>": "hash",
        "leases:<key>": "hash",
        "affinity:<sha>": "string",
        "several:<sha>": "hash",
        "inbox:<key>": "stream",
        "sequence:<sha>": "string",
    }


@pytest.mark.parametrize("namespace", ["a", "default", "llama-3.1_70B", "x" * 64, "-", "0"])
def test_a_namespace_may_have_letters_digits_and_some_marks(namespace: str) -> None:
    assert Keys(namespace).prefix == f"sr:{{{namespace}}}:"


@pytest.mark.parametrize("namespace", ["", "x" * 65, "a b", "a:b", "{a}", "a*", "ü", "a\n", "a/b"])
def test_other_namespaces_are_refused(namespace: str) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        Keys(namespace)
