"""The operations that show routers, the queue and events."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator

from starlette.responses import Response

from shared_registry.api.documents import JsonObject
from shared_registry.api.fleet_documents import (
    REVISION,
    EventDocument,
    EventPage,
    EventsQuery,
    GapDocument,
    QueueQuery,
    ShownQueue,
    ShownRouters,
    StreamQuery,
)
from shared_registry.api.operations import Call, Operation, event_text
from shared_registry.api.pieces import list_response
from shared_registry.api.problems import ApiProblem, ProblemDocument
from shared_registry.model import is_later
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.store.event_document import event_document

LAST_EVENT_ID = "last-event-id"
EVENTS_AT_ONCE = 100
POLL_SECONDS = 1.0
"""How often a stream looks whether the view has changed, besides when its registry says so. This is no I/O."""
COMMENT_SECONDS = 5.0
COMMENT = ": no events\n\n"
MOST_STREAMS = 32


def fleet_operations() -> list[Operation]:
    """Return the operations."""
    return [
        Operation(
            "GET",
            "/v1/routers",
            "read",
            "list_routers",
            "List all routers.",
            _routers,
            answer=ShownRouters,
        ),
        Operation(
            "GET",
            "/v1/queue",
            "read",
            "show_queue",
            "Show the sessions that wait for a slot, over all routers.",
            _queue,
            query=QueueQuery,
            answer=ShownQueue,
        ),
        Operation(
            "GET",
            "/v1/events",
            "read",
            "list_events",
            "List events, oldest first.",
            _page,
            query=EventsQuery,
            answer=EventPage,
        ),
        Operation(
            "GET",
            "/v1/events/stream",
            "read",
            "stream_events",
            "Send each event as it happens.",
            _Streams().serve,
            query=StreamQuery,
            answer={"change": EventDocument, "gap": GapDocument, "problem": ProblemDocument},
            headers={"Last-Event-ID": "The id of the last event that the client has received."},
            problems=("no_room",),
        ),
    ]


async def _routers(call: Call) -> JsonObject:
    return (await call.registry.fleet.routers()).document()


async def _queue(call: Call) -> JsonObject:
    query: QueueQuery = call.query
    return (await call.registry.fleet.queue(query.count)).document()


async def _page(call: Call) -> Response:
    query: EventsQuery = call.query
    latest = (await call.registry.fleet.head()).revision  # before the events, so that none comes in between
    events = await call.registry.events(after=query.since, count=query.count)
    before = events[0].previous if events else latest
    others = {
        "revision": events[-1].id if events else latest,
        "is_complete": query.since is None or before == query.since,
    }
    return await list_response("events", (event_document(event) for event in events), others)


class _Streams:
    """The streams of one router."""

    def __init__(self) -> None:
        self._count = 0

    async def serve(self, call: Call) -> AsyncGenerator[str, None]:
        """Yield a stream's parts until it is closed."""
        query: StreamQuery = call.query
        since = call.headers.get(LAST_EVENT_ID) or query.since
        if since and not re.match(REVISION, since):
            remedy = "send the id of an event, such as 1700000000000-0"
            raise ApiProblem("invalid_request", "this is no id of an event", remedy, field="Last-Event-ID")
        if self._count >= MOST_STREAMS:
            detail = f"{MOST_STREAMS} streams of events are open at this router"
            raise ApiProblem("no_room", detail, "ask another router, or later", retry_after=5)
        self._count += 1
        try:
            async with contextlib.aclosing(_follow(call.registry, since)) as parts:
                async for part in parts:
                    yield part
        finally:
            self._count -= 1


async def _follow(registry: SharedReplicaRegistry, since: str | None) -> AsyncGenerator[str, None]:
    """Yield the events after a revision, or from now on, and comments while there are none."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    end = registry.subscribe(lambda _: news.set(), with_sessions=False)
    try:
        latest = (await registry.fleet.head()).revision
        last = since or latest
        history = registry.history_id
        yield COMMENT
        spoke_at = loop.time()
        if is_later(last, latest):  # it is of a history that is lost
            last = latest
            yield event_text("gap", GapDocument(revision=last), event_id=last)
        while True:
            news.clear()
            seen = registry.revision
            while events := await registry.events(after=last, count=EVENTS_AT_ONCE):
                for event in events:
                    if event.previous != last:
                        yield event_text("gap", GapDocument(revision=event.previous), event_id=event.previous)
                    last, spoke_at = event.id, loop.time()
                    yield event_text("change", event_document(event), event_id=last)
            if registry.history_id != history:
                history, last, spoke_at = registry.history_id, registry.revision, loop.time()
                yield event_text("gap", GapDocument(revision=last), event_id=last)
            while registry.revision == seen and registry.history_id == history:
                if loop.time() >= spoke_at + COMMENT_SECONDS:
                    spoke_at = loop.time()
                    yield COMMENT
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await news.wait()
                news.clear()
    finally:
        end()
