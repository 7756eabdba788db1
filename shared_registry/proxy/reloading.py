"""Reads a running router's settings again when that is asked for, and reports what has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.aio.stop_signals import ReloadRequest
from shared_registry.aio.systemd import ServiceNotifier
from shared_registry.config import RouterConfig
from shared_registry.config.reload_rules import Reloaded
from shared_registry.errors import ConfigError

logger = logging.getLogger(__name__)


class Reloading:
    """Serves the requests to read the settings again. Several requests that come together are served together."""

    def __init__(
        self, request: ReloadRequest, read: Callable[[], RouterConfig], notifier: ServiceNotifier | None = None
    ) -> None:
        """Create it. It reads nothing before `run()`.

        Args:
            request: The requests.
            read: Reads the settings from where they were read at the start. It runs in a thread of its own, because a
                long file, or a slow file system, must not stop the event loop.
            notifier: Is told when settings are read.
        """
        self._request = request
        self._read = read
        self._notifier = notifier or ServiceNotifier({})

    async def run(self, apply: Callable[[RouterConfig], Sequence[tuple[str, Reloaded]]]) -> None:
        """Serve requests until cancelled.

        Settings that cannot be read, or that are wrong, change nothing, and are logged in one line.

        Args:
            apply: Applies settings to what runs, and returns what has changed, by pool. It raises `ConfigError` if
                they do not fit together.
        """
        while True:
            await self._request.asked.wait()
            self._request.asked.clear()
            self._notifier.begin_reload()
            try:
                results = apply(await call_in_daemon_thread(self._read))
            except ConfigError as error:
                logger.error("reload: nothing has changed: %s", " ".join(str(error).split()))  # noqa: TRY400
            except Exception:
                logger.exception("reload: nothing has changed")
            else:
                _log(results)
            self._notifier.end_reload()


def _log(results: Sequence[tuple[str, Reloaded]]) -> None:
    for pool, result in results:
        for name, text in result.lines():
            log = logger.warning if name in result.postponed else logger.info
            log("reload: %s%s", f"{pool}: " if pool else "", text)
    if not any(result.changed or result.postponed for _, result in results):
        logger.info("reload: no setting has changed")
