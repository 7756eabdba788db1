"""How a session gets its replica: the one place that changes when sessions hold leases."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from shared_registry.model import Replica
from shared_registry.registry import SharedReplicaRegistry


class NoReplica(Exception):
    """There is no replica to place a session on."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session before it has a replica.

    Attributes:
        kind: A WebSocket, or one HTTP request.
        path: The path that was asked for, as it came.
        headers: The client's, names in lower case.
        client: The client's address, where it has one.
    """

    kind: Literal["websocket", "http"]
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    client: str | None


class Placement(Protocol):
    """Gives a session its replica."""

    def place(
        self, session: Session, *, exclude: Collection[Replica]
    ) -> contextlib.AbstractAsyncContextManager[Replica]:
        """Hold a replica for a session, until the context ends.

        Args:
            session: Who wants one.
            exclude: Replicas that were tried in vain.

        Raises:
            NoReplica: There is none, on entering.
        """


class Selection:
    """Places by `select()`: on the replica that is best at that moment, without holding anything."""

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry

    @contextlib.asynccontextmanager
    async def place(self, session: Session, *, exclude: Collection[Replica]) -> AsyncIterator[Replica]:  # noqa: ARG002
        """Select a replica."""
        replica = self._registry.select(exclude=exclude)
        if replica is None:
            raise NoReplica
        yield replica
