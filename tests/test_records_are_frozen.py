"""What the registry hands out is no handle on its own state: records and endpoints cannot be changed, only replaced."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from shared_registry.model import ReplicaEndpoint, ReplicaRecord

ENDPOINT = ReplicaEndpoint("http://127.0.0.1:8000", name="gpu-1", primary=True)
RECORD = ReplicaRecord("http://127.0.0.1:8000", ENDPOINT)


@pytest.mark.parametrize("value", [ENDPOINT, RECORD], ids=["endpoint", "record"])
def test_no_attribute_can_be_assigned(value: ReplicaEndpoint | ReplicaRecord) -> None:
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))


def test_equal_records_have_equal_hashes() -> None:
    same = ReplicaRecord("http://127.0.0.1:8000", ReplicaEndpoint("http://127.0.0.1:8000", name="gpu-1", primary=True))
    assert {RECORD: 1}[same] == 1
