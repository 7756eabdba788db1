"""Connects to one registry from outside, without joining the routers."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Self

from shared_registry.config.address import RegistryAddress
from shared_registry.errors import KeyConflict
from shared_registry.store import client
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Reader
from shared_registry.store.schema import expect_cluster
from shared_registry.store.verification import verify_server

if TYPE_CHECKING:
    from shared_registry.admin.check import Violation


class Outsider:
    """Connects to the Redis of a config, and reads one namespace.

    Only the Redis settings of the config and its cluster's name are used.

    All methods raise `StoreUnavailable` when Redis does not answer in time, and `KeyConflict` for data that they cannot
    parse.
    """

    def __init__(self, config: RegistryAddress) -> None:
        """Set up; nothing connects before `async with`."""
        self._timeout_seconds = config.redis_timeout_seconds
        self._keys = Keys(config.namespace)
        self._cluster = config.cluster or ""
        self._clients = client.connect(
            config.redis_url,
            timeout_seconds=self._timeout_seconds,
            block_seconds=config.refresh_seconds,
            key=self._keys.meta,
        )
        self._reader = Reader(self._clients, self._keys, timeout_seconds=self._timeout_seconds)

    async def __aenter__(self) -> Self:
        """Connect. Refuse an unsupported server, and a namespace of another schema or cluster."""
        try:
            await verify_server(self._clients.commands, self._keys.meta, timeout_seconds=self._timeout_seconds)
            with contextlib.suppress(KeyConflict):  # `check` can name the key
                expect_cluster((await self._reader.head()).cluster, self._cluster)
        except BaseException:
            await self._clients.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._clients.close()

    async def check(self) -> list[Violation]:
        """Return the violated invariants of the namespace; an empty list means that all hold."""
        from shared_registry.admin.check import find_violations  # noqa: PLC0415  slow to import, for this call only
        from shared_registry.admin.inspector import Inspector  # noqa: PLC0415

        inspector = Inspector(self._clients, self._keys, timeout_seconds=self._timeout_seconds)
        return await find_violations(inspector, self._keys)
