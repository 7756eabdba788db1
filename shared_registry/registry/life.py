"""One life of a registry, from `start` until its last connection is closed. A single task owns all of it.

Because the task itself leaves the routers and closes the connections when it ends, every end has the same result:
`stop`, a `start` that fails or is cancelled, and an event loop that ends without a `stop`, such as that of
`asyncio.run`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shared_registry.aio.log_fields import logging_about
from shared_registry.errors import UsageError

logger = logging.getLogger(__name__)

STOPPED_DURING_START = "the registry was stopped during start()"


class Life:
    """Joins, works until it is ended, and then closes. Its methods do not run it: its task does."""

    def __init__(
        self,
        name: str,
        *,
        close: Callable[[], Awaitable[None]],
        join: Callable[[], Awaitable[None]] | None = None,
        work: Callable[[], Awaitable[None]] | None = None,
        namespace: str = "",
    ) -> None:
        """Begin, on the running event loop.

        Args:
            name: The name of the task.
            close: Leaves the routers and closes the connections, however far the life came.
            join: Joins the routers.
            work: Runs until cancelled.
            namespace: What all log lines of its tasks name.
        """
        self._join, self._work, self._close = join, work, close
        self._namespace = namespace
        self._loop = asyncio.get_running_loop()
        self._joined: asyncio.Future[None] = self._loop.create_future()
        self._has_begun = False
        self._is_ending = False
        self._task = self._loop.create_task(self._run(), name=name)
        self._task.add_done_callback(self._note_end)

    @property
    def is_running(self) -> bool:
        """Whether the router has joined, and has not begun to leave."""
        return self._joined.done() and not self._is_ending

    @property
    def is_usable(self) -> bool:
        """Whether the router has joined, has not begun to leave, and belongs to the running event loop."""
        return self._joined.done() and not self._is_ending and self._loop is asyncio.get_running_loop()

    @property
    def is_ending(self) -> bool:
        """Whether it was ended, or ends by itself."""
        return self._is_ending

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left."""
        return self._task.done()

    @property
    def is_here(self) -> bool:
        """Whether it belongs to the running event loop."""
        return self._loop is asyncio.get_running_loop()

    @property
    def is_abandoned(self) -> bool:
        """Whether its event loop was closed before it was over, so that it can never end."""
        return self._loop.is_closed() and not self.is_over

    async def joined(self) -> None:
        """Wait until the router has joined.

        Raises:
            UsageError: The life was ended before.
        """
        await asyncio.wait((self._joined, self._task), return_when=asyncio.FIRST_COMPLETED)
        if self.is_running:
            return
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error
        raise UsageError(STOPPED_DURING_START)

    def end(self) -> None:
        """Let it end. A life that ends already is not disturbed."""
        if not self._is_ending:
            self._is_ending = True
            if self._has_begun:
                self._task.cancel()

    async def over(self) -> None:
        """Wait until nothing is left. A caller that is cancelled disturbs nothing."""
        if not self.is_over:
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        with logging_about(namespace=self._namespace):
            await self._live()

    async def _live(self) -> None:
        self._has_begun = True
        can_wait = True
        try:
            if not self._is_ending and self._join and self._work:
                await self._join()
                self._joined.set_result(None)
                await self._work()
        except GeneratorExit:
            can_wait = False  # the event loop is closed, and the task is deleted
            raise
        finally:
            self._is_ending = True
            if can_wait:
                await self._close()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self._joined.done():
            logger.critical("the registry's background tasks have died; start() it again", exc_info=error)
