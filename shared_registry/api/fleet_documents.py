"""What clients of the API read about routers, the queue and events."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared_registry.api.operations import Query

REVISION = r"^[0-9]{1,15}-[0-9]{1,15}$"
MOST_EVENTS = 1000
MOST_WAITERS = 1000
Revision = Annotated[str, Field(pattern=REVISION)]


class ShownRouter(BaseModel):
    """A router. There are more members than are listed here: those of `shared-registry routers --json`."""

    model_config = ConfigDict(extra="allow")

    key: str
    url: str
    version: str
    last_heartbeat_at: float = Field(description="In seconds since the epoch, on the clock of Redis.")
    is_live: bool
    is_leader: bool
    leases: int | None = Field(description="The leases that it holds.")


class ShownRouters(BaseModel):
    """All routers of the pool."""

    model_config = ConfigDict(extra="allow")

    at: float = Field(description="The time on the clock of Redis.")
    routers: list[ShownRouter]


class QueueQuery(Query):
    """How much of the queue is wanted."""

    count: int = Field(default=100, ge=0, le=MOST_WAITERS, description="How many of the first waiters to list.")


class ShownWaiter(BaseModel):
    """A session that waits."""

    position: int
    id: str = Field(description="The id of the lease that it will have.")
    router: str
    session_digest: str | None
    since: float = Field(description="About when it began to wait.")


class ShownQueue(BaseModel):
    """The queue, over all routers."""

    at: float = Field(description="The time on the clock of Redis.")
    depth: int = Field(description="How many sessions wait.")
    waiters: list[ShownWaiter]


class EventsQuery(Query):
    """Which events are wanted."""

    since: Revision | None = Field(default=None, description="A revision; the events after it, or else the latest.")
    count: int = Field(default=100, ge=1, le=MOST_EVENTS, description="At most so many.")


class StreamQuery(Query):
    """From where on events are wanted."""

    since: Revision | None = Field(
        default=None, description="A revision; the events after it, or else the coming ones. `Last-Event-ID` wins."
    )


class EventDocument(BaseModel):
    """A change of the shared state. Its other members are those of docs/events.md."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The revision after the change.")
    kind: str
    at: float
    by: str
    reason: str


class EventPage(BaseModel):
    """Events, oldest first."""

    events: list[EventDocument]
    revision: str = Field(description="That of the last event here; give it as `since` for the next page.")
    is_complete: bool = Field(description="Whether no event between `since` and the first one here is missing.")


class GapDocument(BaseModel):
    """Events are missing: read everything again. Later events follow this revision."""

    revision: str
