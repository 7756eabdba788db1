"""A replica's labels: sorted, unchangeable and hashable, and still a dict to whoever prints them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_registry.config import RouterConfig, from_env, load_yaml, validate_endpoint
from shared_registry.config.rules import MAX_LABEL_LENGTH, MAX_LABELS
from shared_registry.errors import ConfigError
from shared_registry.model import NO_LABELS, Labels, Replica, ReplicaEndpoint

URL = "http://a:8000"
GIVEN = {"zone": "a", "gpu": "h100", "model": "org/Name-1.3B"}
ENDPOINT = ReplicaEndpoint(URL, labels=GIVEN)
LETTERS = "abcXYZ019"
NAMES = st.text(LETTERS, min_size=1, max_size=9)
VALUES = st.text(LETTERS + "-_./:@+", max_size=9)


def test_an_endpoint_keeps_a_sorted_copy() -> None:
    given = dict(GIVEN)
    endpoint = ReplicaEndpoint(URL, labels=given)
    given["zone"] = "b"
    assert list(endpoint.labels.items()) == [("gpu", "h100"), ("model", "org/Name-1.3B"), ("zone", "a")]
    assert endpoint.labels == GIVEN
    assert Replica(endpoint).labels is endpoint.labels
    assert ReplicaEndpoint(URL).labels == {}


def test_equal_labels_have_equal_hashes_in_any_order() -> None:
    other = ReplicaEndpoint(URL, labels=dict(reversed(GIVEN.items())))
    assert (other, hash(other)) == (ENDPOINT, hash(ENDPOINT))
    assert {ENDPOINT: 1}[other] == 1
    assert ReplicaEndpoint(URL, labels=GIVEN | {"zone": "b"}) != ENDPOINT


def _or(labels: Any) -> None:
    labels |= {"b": "c"}


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.__setitem__("zone", "b"),
        lambda labels: labels.__delitem__("zone"),
        lambda labels: labels.update(zone="b"),
        lambda labels: labels.setdefault("b", "c"),
        lambda labels: labels.pop("zone"),
        lambda labels: labels.popitem(),
        lambda labels: labels.clear(),
        _or,
    ],
)
def test_labels_cannot_be_changed(change: Any) -> None:
    with pytest.raises(TypeError, match="labels cannot be changed"):
        change(ENDPOINT.labels)
    assert ENDPOINT.labels == GIVEN


def test_a_changed_copy_is_another_mapping() -> None:
    changed = dataclasses.replace(ENDPOINT, labels={**ENDPOINT.labels, "zone": "b"})
    assert changed.labels == GIVEN | {"zone": "b"}
    joined = Labels(GIVEN) | {"zone": "c"}
    assert joined == GIVEN | {"zone": "c"}
    assert ENDPOINT.labels == GIVEN


def test_an_endpoint_with_labels_can_be_copied_pickled_and_printed() -> None:
    for copied in (copy.copy(ENDPOINT), copy.deepcopy(ENDPOINT), pickle.loads(pickle.dumps(ENDPOINT))):
        assert copied == ENDPOINT
        assert hash(copied) == hash(ENDPOINT)
    assert json.loads(json.dumps(dataclasses.asdict(ENDPOINT)))["labels"] == GIVEN
    shown = RouterConfig(replicas=[ENDPOINT]).shown()["replicas"]
    assert json.loads(json.dumps(shown))[0]["labels"] == GIVEN


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_labels_survive_their_text(given: dict[str, str]) -> None:
    labels = Labels(given)
    assert Labels.parse(str(labels)) == labels == given
    assert str(labels) == ",".join(f"{name}={given[name]}" for name in sorted(given))


@pytest.mark.parametrize("text", ["zone", "zone=a,", ",zone=a", "zone=a,b"])
def test_text_without_an_equals_sign_is_no_label(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Labels.parse(text)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"a": ""},
        {"topology.kubernetes.io/zone": "eu-west-1a"},
        {"model": "org/Name-1.3B", "image": "repo:tag@sha256", "A_b-c.9": "x+y"},
        {f"n{number}": "v" for number in range(MAX_LABELS)},
        {"n" * MAX_LABEL_LENGTH: "v" * MAX_LABEL_LENGTH},
    ],
)
def test_good_labels_are_accepted(labels: dict[str, str]) -> None:
    assert validate_endpoint(ReplicaEndpoint(URL, labels=labels)).labels == labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "must be a mapping of names to texts, such as {'zone': 'a'}, got None"),
        ("zone=a", "must be a mapping of names to texts"),
        ([("zone", "a")], "must be a mapping of names to texts"),
        ({f"n{number}": "v" for number in range(MAX_LABELS + 1)}, f"must be at most {MAX_LABELS}, got"),
        ({"": "a"}, "the name '' must be text of 1 to 128 characters: letters"),
        ({7: "a"}, "the name 7 must be text"),
        *[({name: "a"}, "the name ") for name in ("-a", "a-", "a b", "a=b", "a,b", "ä", "a\n", "n" * 129)],
        ({"zone": 7}, "zone must be text of at most 128 characters: letters, digits and -_./:@+; quote numbers, got"),
        *[({"zone": value}, "zone must be text") for value in (None, "a b", "a,b", "a=b", "ä", "a\n", "v" * 129)],
    ],
)
def test_wrong_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_endpoint(ReplicaEndpoint(URL, labels=labels), "replicas[7]")
    assert str(caught.value).startswith(f"replicas[7].labels: {message}")
    assert len(str(caught.value)) < 500


def test_a_file_and_a_variable_may_give_labels(tmp_path: Any) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(
        "router: {replicas: [{url: 'http://a', labels: {zone: a, gpu: h100}}, {url: 'http://b', labels: }]}"
    )
    assert [dict(one.labels) for one in load_yaml(path).replicas] == [{"gpu": "h100", "zone": "a"}, {}]
    [replica] = from_env({"SHARED_REGISTRY_REPLICAS": '[{"url": "http://a", "labels": {"zone": "a"}}]'}).replicas
    assert replica.labels == {"zone": "a"}
    path.write_text("router: {replicas: [{url: 'http://a', labels: {rack: 7}}]}")
    with pytest.raises(ConfigError, match=r"replicas\[0\]\.labels: rack must be text .* quote numbers"):
        load_yaml(path)


def test_without_labels_all_share_one_mapping() -> None:
    """Ten thousand replicas without labels need no ten thousand mappings."""
    assert ReplicaEndpoint(URL).labels is Labels.parse("") is NO_LABELS
