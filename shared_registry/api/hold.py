"""The operation that holds a lease for as long as its connection lasts, as an event stream.

A client that dies closes its connection, and the lease waits for it for the grace. No time to live has to be guessed. A
comment is sent every few seconds, so that TCP finds a connection whose other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from shared_registry.api.documents import HoldQuery, LeaseDocument, Nothing, PositionDocument
from shared_registry.api.lease_calls import expect_running, lease_document, new_or_known
from shared_registry.api.operations import Call, Operation, event_text
from shared_registry.api.problems import ApiProblem, ProblemDocument
from shared_registry.leases.movable import MovableLease, movable_id

COMMENT_SECONDS = 5.0
COMMENT = ": the lease is held\n\n"


def hold_operation(most: int) -> Operation:
    """Return the operation.

    Args:
        most: The most leases of clients of the API at this router.
    """
    return Operation(
        "GET",
        "/v1/leases/hold",
        "lease",
        "hold_lease",
        "Acquire a slot, or take a lease over, and hold it as long as this event stream is read.",
        functools.partial(_hold, most=most),
        query=HoldQuery,
        answer={
            "position": PositionDocument,
            "lease": LeaseDocument,
            "lost": Nothing,
            "ended": Nothing,
            "problem": ProblemDocument,
        },
        problems=("in_use", "not_found", "ended", "saturated", "no_healthy_replica", "no_room"),
    )


async def _hold(call: Call, *, most: int) -> AsyncGenerator[str, None]:
    query: HoldQuery = call.query
    request_id = query.request_id or secrets.token_hex(16)
    expect_running(call.pool)
    leases = call.registry.movable_leases
    if query.resume:
        lease = await leases.find(movable_id(call.caller, request_id, query.session))
        if lease is None:
            remedy = "acquire a new lease, without resume"
            raise ApiProblem("ended", "no router has a lease of this request_id", remedy, field="request_id")
    else:
        acquiring = _Acquiring(call, request_id, most)
        async with contextlib.aclosing(acquiring.positions()) as positions:
            async for text in positions:
                yield text
        lease = acquiring.lease()
    holder = leases.take(lease)
    changed, lost = lease.changed, lease.lease.lost
    watched: Sequence[asyncio.Task[Any]] = [asyncio.create_task(changed.wait()), asyncio.create_task(lost.wait())]
    pending = watched
    try:
        yield event_text("lease", lease_document(call.pool, lease, request_id, None))
        while True:
            await asyncio.wait(pending, timeout=COMMENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if changed.is_set():
                if not leases.is_closed:  # otherwise the lease waits elsewhere, as after any end of the connection
                    yield event_text("ended", {})
                return
            if lost.is_set() and len(pending) > 1:
                pending = watched[:1]
                yield event_text("lost", {})
            else:
                yield COMMENT
    finally:
        for task in watched:
            task.cancel()
        leases.let_go(lease, holder)


class _Acquiring:
    """Acquires a lease while its client is sent its positions in the queue."""

    def __init__(self, call: Call, request_id: str, most: int) -> None:
        self._call = call
        self._request_id = request_id
        self._most = most
        self._position: PositionDocument | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[MovableLease] | None = None

    def lease(self) -> MovableLease:
        """Return the lease, after `positions` has ended."""
        assert self._task is not None  # noqa: S101  see above
        return self._task.result()

    async def positions(self) -> AsyncGenerator[str, None]:
        """Yield each position until there is a lease. If this is ended before, none is left after the grace.

        Raises:
            Exception: What `new_or_known` raises.
        """
        query: HoldQuery = self._call.query
        self._task = task = asyncio.create_task(
            new_or_known(
                self._call,
                self._request_id,
                query.session,
                timeout_seconds=query.timeout_seconds,
                exclude=query.exclude,
                most=self._most,
                on_position=self._note,
            )
        )
        task.add_done_callback(lambda _: self._news.set())
        is_begun = is_wanted = False
        try:
            while not task.done():
                self._news.clear()
                if self._position is not None:
                    is_begun, position = True, self._position
                    self._position = None
                    yield event_text("position", position)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(COMMENT_SECONDS):
                        await self._news.wait()
                    continue
                if is_begun:
                    yield ": waiting\n\n"
            is_wanted = True
            task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not is_wanted and not task.cancelled() and task.exception() is None:
                self._leave(task.result())

    def _leave(self, lease: MovableLease) -> None:
        """The client has gone just when it got the lease: as if it had gone a moment later."""
        leases = self._call.registry.movable_leases
        if not lease.is_held:
            leases.let_go(lease, leases.take(lease))

    def _note(self, position: int, depth: int) -> None:
        self._position = PositionDocument(position=position, depth=depth)
        self._news.set()
