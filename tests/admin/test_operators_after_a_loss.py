"""What an operator does after a loss of history holds against every view that is put back later."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from shared_registry.store.codec import parse_record, removed_entry, restored_entry
from tests.support.space import A, Space, on_server

EARLIER, LATER = "5-0", "9-0"
LOST = "lost"


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    """A namespace into which an earlier view has put back replica A."""
    async with on_server(server.url, namespace) as space:
        await space.add(A)
        record = parse_record(A, space.fields(A))
        space.raw.delete(*space.dump())
        await space.store.restore([restored_entry("replica", record)], view_history_id=LOST, view_revision=EARLIER)
        yield space


async def put_back_later_view(space: Space) -> None:
    """Put back a view of the same replica that had followed the lost history further."""
    record = parse_record(A, space.fields(A) | {"admin": "active", "admin_reason": "as it was", "weight": "5.0"})
    assert (
        await space.store.restore([restored_entry("replica", record)], view_history_id=LOST, view_revision=LATER)
        is not None
    )


async def test_a_later_view_replaces_an_earlier_one(space: Space) -> None:
    await put_back_later_view(space)
    assert (space.fields(A)["weight"], space.fields(A)["admin_reason"]) == ("5.0", "as it was")


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
async def test_an_admin_state_set_meanwhile_stays(space: Space, state: AdminState) -> None:
    await space.store.set_admin(A, state, reason="maintenance")
    await put_back_later_view(space)
    assert (space.fields(A)["admin"], space.fields(A)["admin_reason"]) == (state.value, "maintenance")


async def test_an_admin_state_confirmed_meanwhile_stays(space: Space) -> None:
    """To enable what is active changes nothing to see, yet from then on it is what the operator wants."""
    assert await space.store.set_admin(A, AdminState.ACTIVE)
    assert not await space.store.set_admin(A, AdminState.ACTIVE), "the second time there is nothing to confirm"
    record = parse_record(A, space.fields(A) | {"admin": "draining"})
    await space.store.restore([restored_entry("replica", record)], view_history_id=LOST, view_revision=LATER)
    assert space.fields(A)["admin"] == "active"


async def test_who_drained_a_replica_is_known_after_a_loss(space: Space) -> None:
    await space.store.set_admin(A, AdminState.DRAINING, by="ann@desk", reason="deploy")
    record = parse_record(A, space.fields(A))
    space.raw.delete(*space.dump())
    await space.store.restore([restored_entry("replica", record)], view_history_id=LOST, view_revision=LATER)
    restored = parse_record(A, space.fields(A))
    assert (restored.admin_by, restored.admin_since) == ("ann@desk", record.admin_since)


async def test_a_replica_enabled_meanwhile_stays_enabled(space: Space) -> None:
    for state in (AdminState.DISABLED, AdminState.ACTIVE):
        await space.store.set_admin(A, state, reason="checked")
    record = parse_record(A, space.fields(A) | {"admin": "disabled"})
    await space.store.restore([restored_entry("replica", record)], view_history_id=LOST, view_revision=LATER)
    assert space.fields(A)["admin"] == "active"


async def test_a_replica_registered_anew_meanwhile_keeps_its_spec(space: Space) -> None:
    await space.add(A, weight=2.0)
    await put_back_later_view(space)
    assert space.fields(A)["weight"] == "2.0"


async def test_a_replica_removed_meanwhile_stays_removed(space: Space) -> None:
    await space.remove(A)
    await space.store.restore([removed_entry("removed", A)], view_history_id=LOST, view_revision=EARLIER)
    await put_back_later_view(space)
    assert space.fields(A)["admin"] == "removed"
