"""What clients of the API send to change replicas or to announce them, and what they get."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from shared_registry.announcing.announcement import LONGEST_TTL_SECONDS, SHORTEST_TTL_SECONDS
from shared_registry.api.documents import Reason
from shared_registry.api.operations import TEXT, Body, Query
from shared_registry.config.rules import (
    MAX_INTEGER,
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_NAME_LENGTH,
    MAX_WEIGHT,
    MIN_WEIGHT,
)
from shared_registry.urls import MAX_URL_LENGTH

LONGEST_PATH = 1024
ChangeOutcome = Literal["registered", "updated", "draining", "disabled", "enabled", "removed", "unchanged"]
Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH, pattern=TEXT)]
Whole = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
LabelText = Annotated[str, Field(max_length=MAX_LABEL_LENGTH)]
Url = Annotated[
    str, Field(min_length=1, max_length=MAX_URL_LENGTH, description="The url by which routers reach the replica.")
]
InstanceId = Annotated[
    str,
    Field(
        min_length=8,
        max_length=64,
        pattern="^[A-Za-z0-9_-]+$",
        description="A random id of this run of the program beside the replica, new at each start.",
    ),
]


class SpecParts(Body):
    """What a replica is, but for its url and name."""

    primary: bool = Field(default=False, description="Whether it is in the first tier.")
    weight: float = Field(default=1.0, ge=MIN_WEIGHT, le=MAX_WEIGHT, description="Its share of the load.")
    capacity: Whole = Field(default=0, description="The most sessions at once; 0 for no limit.")
    order: Whole | None = Field(default=None, description="Its place in the list; null appends.")
    labels: dict[LabelText, LabelText] = Field(default_factory=dict, max_length=MAX_LABELS)
    health_check_path: Annotated[str, Field(max_length=LONGEST_PATH)] | None = Field(
        default=None, description="The path that its probes request; null for that of the routers."
    )
    health_check_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="The port that its probes connect to; null for that of the url."
    )


class SpecChange(SpecParts):
    """What is to be registered or changed. Members that are not given stay as they are, or have their defaults."""

    name: Name | None = None


class AnnouncementRequest(SpecParts):
    """An instance of a replica, whose heartbeats will follow."""

    url: Url
    instance: InstanceId
    owner: Name = Field(default="", description="Who holds it, for people; the name by default.")
    ttl_seconds: float = Field(
        default=10.0,
        ge=SHORTEST_TTL_SECONDS,
        le=LONGEST_TTL_SECONDS,
        description="How long it stays in service without a heartbeat. Send one each third of this time.",
    )


class HeartbeatRequest(Body):
    """The instance that is alive."""

    url: Url
    instance: InstanceId


class WithdrawalQuery(Query):
    """Which instance ends, and how."""

    url: Url
    instance: InstanceId
    reason: Reason = ""
    when_drained: bool = Field(default=False, description="Whether to let its sessions end first.")


class AnnouncementState(BaseModel):
    """What became of an announcement."""

    state: Literal["held", "draining", "removed"] = Field(
        description="`held`: this instance holds the url. `draining`: it takes no new sessions; go on with heartbeats."
    )
    in_flight: int | None = Field(default=None, description="The sessions on it, in answers to heartbeats.")


class ReasonQuery(Query):
    """Why something is changed."""

    reason: Reason = ""


class OutOfServiceQuery(ReasonQuery):
    """How a replica is taken out of service."""

    dry_run: bool = Field(default=False, description="Whether to say what it would cost, and change nothing.")
    force: bool = Field(default=False, description="Whether to do it if no session would find a slot then.")


class RemovalQuery(OutOfServiceQuery):
    """How a replica is removed."""

    when_drained: bool = Field(default=False, description="Whether to let its sessions end first.")


class RoomDocument(BaseModel):
    """What takes new sessions after the change."""

    replicas: int
    free_slots: int | None = Field(description="How many sessions they can take; null for no limit.")


class ReplicaChange(BaseModel):
    """What became of a replica."""

    url: str
    name: str | None
    outcome: ChangeOutcome


class CostlyChange(ReplicaChange):
    """What became of a replica that is taken out of service, or would."""

    sessions: int = Field(description="The sessions on it before, as this router read them last.")
    left: RoomDocument
    is_dry_run: bool
