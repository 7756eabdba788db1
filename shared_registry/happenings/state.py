"""What happens to this router's view of the shared state, and to Redis as it sees it."""

from __future__ import annotations

from dataclasses import dataclass

from shared_registry.happenings.happening import Happening


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewLoaded(Happening):
    """This router has read the whole shared state.

    At a start it reports no change; a listener reads `registry.all()`. Later, after a gap, the changes that were found
    by comparing follow. Changes that came and went in the gap are not known, and neither are those of other routers.

    Attributes:
        reason: `start`, or the kind of the gap: `missed` (events are missing), `lost_write` (a failover lost a write of
            this router), `history` (Redis lost its data), `repaired`, `damaged` (an event carries a damaged replica).
        revision: The id of the last event that the view shows.
        history_id: The history that it shows.
    """

    reason: str
    revision: str
    history_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewStale(Happening):
    """The view is older than `max_staleness_seconds`, and nothing is selected from it.

    Attributes:
        age_seconds: Its age.
    """

    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFresh(Happening):
    """The view is current again after it was stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLost(Happening):
    """Redis has lost its data, or is another server.

    Attributes:
        former: The history that the view shows.
        present: The history that Redis has; `None` if it is empty.
    """

    former: str | None
    present: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRestored(Happening):
    """The view of this router, or a later one, is in Redis again after a loss.

    Attributes:
        former: The history that was lost.
        present: The history that continues it.
    """

    former: str | None
    present: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingBegan(Happening):
    """Redis lost data: no new session gets a slot before what runs is back. All routers learn that.

    Attributes:
        router: The key of the router that noticed it first; empty if this router has found it by reading everything.
    """

    router: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingEnded(Happening):
    """What ran before a loss of data is back, and new sessions get slots again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicBegan(Happening):
    """So few replicas are healthy that sessions may use the others, as this router's view shows.

    Attributes:
        reason: The numbers, for people.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PanicEnded(Happening):
    """Enough replicas are healthy again, or the view is stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed(Happening):
    """The event stream cannot be followed. Reported once for each kind of error in a row.

    Attributes:
        kind: The name of the error's class, such as `StoreUnavailable`.
        error: The error as text.
    """

    kind: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecovered(Happening):
    """The event stream can be followed again."""
