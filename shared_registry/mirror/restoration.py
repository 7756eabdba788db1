"""After a loss of history, a router contributes its view to Redis before it reads the new history.

Any number of routers do this, in any order. The latest view wins, including its removals. Data that was written on
purpose after the loss is not changed. `lua/restore_view.lua` states the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from shared_registry.model import is_later
from shared_registry.selection.view import View
from shared_registry.store.codec import removed_entry, restored_entry
from shared_registry.store.commands import Store
from shared_registry.store.reader import Reader

ENTRIES_AT_ONCE = 20
logger = logging.getLogger(__name__)


async def restore_view(store: Store, reader: Reader, view: View, *, history_id: str, revision: str) -> str:
    """Restore a view in Redis. Return the id of the history that now has this view or a later one.

    Repeating the call is safe, and so is cancelling it at any point. If history is lost again meanwhile, it starts
    over.

    Args:
        store: Writes to the namespace that lost its history.
        reader: Reads the same namespace.
        view: The view of this router.
        history_id: The history that the view shows.
        revision: The revision of the view in that history.

    Raises:
        StoreError: Not all of the view could be written.
    """
    while True:
        before = await reader.head()
        await _put_back(store, reader, view, history_id, revision)
        after = await reader.head()
        if after.history_id is not None and before.history_id == after.history_id:
            return after.history_id
        logger.warning("redis: history was lost again while this router's view was put back; starting over")


async def _put_back(store: Store, reader: Reader, view: View, history_id: str, revision: str) -> None:
    entries, own_writes = _entries(view, revision)
    restored = 0
    for changed_at, entry in own_writes:
        restored += len(await store.restore([entry], view_history_id=history_id, view_revision=changed_at) or ())
    for chunk in _chunks(entries):
        events = await store.restore(chunk, view_history_id=history_id, view_revision=revision)
        if events is None:
            return
        restored += len(events)
    if await store.restore((), view_history_id=history_id, view_revision=revision, is_complete=True) is None:
        return
    # From here on, no earlier view of this history can add a replica that is absent from this view.
    unknown = [removed_entry("absent", key) for key in await reader.urls() if view.get(key) is None]
    for chunk in _chunks(unknown):
        await store.restore(chunk, view_history_id=history_id, view_revision=revision)
    logger.warning("redis: put back %d replicas from this router's view of %s", restored, history_id)


def _entries(view: View, revision: str) -> tuple[list[list[str]], list[tuple[str, list[str]]]]:
    """Return the entries of what the event stream has brought, and with their revision those that are later.

    A reply shows an own write before the event stream brings it. Only of that replica is the view so recent.
    """
    records = (replica.record for replica in view.all())
    known = [(it.restored_from, it.revision, restored_entry("replica", it)) for it in records]
    known += [
        (it.restored_from, it.revision, removed_entry("removed", key, it.restored_from, it.instance))
        for key, it in sorted(view.removed.items())
        if it.is_lasting or it.instance
    ]
    entries: list[list[str]] = []
    own_writes: list[tuple[str, list[str]]] = []
    for restored_from, changed_at, entry in known:
        if not restored_from and is_later(changed_at, revision):
            own_writes.append((changed_at, entry))
        else:
            entries.append(entry)
    return entries, own_writes


def _chunks(entries: Sequence[list[str]]) -> list[Sequence[list[str]]]:
    return [entries[at : at + ENTRIES_AT_ONCE] for at in range(0, len(entries), ENTRIES_AT_ONCE)]
