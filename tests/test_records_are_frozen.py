"""What the registry hands out is no handle on its own state: records and endpoints cannot be changed, only replaced."""

from __future__ import annotations

import copy
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from shared_registry.model import ReplicaEndpoint, ReplicaRecord, make_record

ENDPOINT = ReplicaEndpoint("http://127.0.0.1:8000", name="gpu-1", primary=True)
RECORD = ReplicaRecord("http://127.0.0.1:8000", ENDPOINT)


MADE = make_record.replaced(RECORD, last_error="refused")
"""As mirrors make them; see `Maker`."""


@pytest.mark.parametrize("value", [ENDPOINT, RECORD, MADE], ids=["endpoint", "record", "made"])
def test_no_attribute_can_be_assigned(value: ReplicaEndpoint | ReplicaRecord) -> None:
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))


def test_equal_records_have_equal_hashes() -> None:
    same = ReplicaRecord("http://127.0.0.1:8000", ReplicaEndpoint("http://127.0.0.1:8000", name="gpu-1", primary=True))
    assert {RECORD: 1}[same] == 1


def test_a_made_record_is_as_any_other() -> None:
    assert type(MADE) is ReplicaRecord
    assert replace(RECORD, last_error="refused") == MADE
    assert (repr(MADE), hash(MADE)) == (repr(replace(MADE)), hash(replace(MADE)))
    assert copy.copy(MADE) == MADE
    assert sys.getsizeof(MADE) == sys.getsizeof(RECORD)
    with pytest.raises(TypeError):
        make_record([*range(3)])
    with pytest.raises(KeyError):
        make_record.replaced(RECORD, colour="red")
