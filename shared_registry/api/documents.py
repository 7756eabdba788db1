"""What clients of the API send, and what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared_registry.api.operations import TEXT, Body, Query

SHORTEST_TTL = 1.0
LONGEST_TTL = 86_400.0
LONGEST_WAIT = 3600.0
MOST_EXCLUDED = 100

RequestId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        pattern=TEXT,
        description="A text that the client makes, such as a UUID. The same text finds the same lease again.",
    ),
]
SessionName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        pattern=TEXT,
        description="The name of the session, which returns to the replica where it was.",
    ),
]
Wait = Annotated[float, Field(ge=0, le=LONGEST_WAIT, description="How many seconds to wait in the queue for a slot.")]
Ttl = Annotated[
    float, Field(ge=SHORTEST_TTL, le=LONGEST_TTL, description="After how many seconds the lease ends, if not renewed.")
]
Reason = Annotated[str, Field(max_length=500, pattern=TEXT, description="The reason, for people.")]
GivenName = Annotated[str, Field(min_length=1, max_length=2048, pattern=TEXT)]
Excluded = Annotated[
    list[GivenName],
    Field(max_length=MOST_EXCLUDED, description="Replicas that were tried without success, by url or name."),
]


class LeaseRequest(Body):
    """What a lease is wanted for."""

    request_id: RequestId | None = None
    session: SessionName | None = None
    timeout_seconds: Wait = 0.0
    ttl_seconds: Ttl = 60.0
    exclude: Excluded = Field(default_factory=list)


class Renewal(Body):
    """How long a lease is wanted on."""

    ttl_seconds: Ttl = 60.0


class LeaseDocument(BaseModel):
    """A lease: a slot of a replica, for one session."""

    id: str = Field(description="The lease's id, for renewing and ending it.")
    url: str = Field(description="The url of the replica.")
    name: str | None = Field(description="The name of the replica.")
    request_id: str | None = Field(description="The client's own text for it, or the one that the router made.")
    ttl_seconds: float | None = Field(
        description="In how many seconds the lease ends, if not renewed; null if a connection holds it."
    )
    router: str = Field(description="The router that has the lease now.")


class HoldQuery(Query):
    """What a lease is wanted for."""

    request_id: RequestId | None = None
    session: SessionName | None = None
    timeout_seconds: Wait = 0.0
    exclude: Excluded = Field(default_factory=list)
    resume: bool = Field(default=False, description="Whether to take over an existing lease only.")


class PositionDocument(BaseModel):
    """A position in the queue."""

    position: int = Field(description="The position, from 1.")
    depth: int = Field(description="How many sessions wait, over all routers.")


class Nothing(BaseModel):
    """An object without members."""

    model_config = ConfigDict(extra="forbid")


class EndQuery(Query):
    """How the session ended."""

    outcome: Literal["ok", "failed"] | None = Field(
        default=None, description="Whether the session ended well, or the replica failed. All routers learn it."
    )
    reason: Reason = ""


class SelectQuery(Query):
    """For what a replica is wanted."""

    key: SessionName | None = None
    exclude: Excluded = Field(default_factory=list)


class SelectedReplica(BaseModel):
    """A replica that takes sessions."""

    url: str
    name: str | None
    primary: bool


class ShownReplica(BaseModel):
    """A replica. There are more members than are listed here: those of `/status`."""

    model_config = ConfigDict(extra="allow")

    url: str
    name: str | None
    primary: bool
    weight: float
    capacity: int = Field(description="The most sessions at once; 0 for no limit.")
    in_flight: int = Field(description="The sessions over all routers, as this router read them last.")
    status: Literal["unknown", "healthy", "unhealthy"]
    admin: Literal["active", "draining", "disabled", "removed"]


class ReplicaList(BaseModel):
    """All replicas, in order."""

    replicas: list[ShownReplica]
    revision: str = Field(description="The revision that the list shows. Events after it change the list.")
    age_seconds: float | None = Field(description="How long ago the list was known to be current.")


JsonObject = dict[str, Any]
