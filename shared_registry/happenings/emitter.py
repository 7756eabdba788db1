"""Delivers happenings to listeners."""

from __future__ import annotations

import inspect
import logging
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable

from shared_registry.errors import UsageError
from shared_registry.happenings.happening import Happening, Listener
from shared_registry.happenings.leases import LeaseEnd, LeaseEnded, LeaseGranted

logger = logging.getLogger(__name__)


class Emitter:
    """Delivers each happening to all listeners, one happening after the other.

    Attributes:
        has_listeners: Whether anybody listens. Whoever emits asks this first, so that nothing is made for nobody.
        has_session_listeners: The same for what happens with every session: a grant, and a release.
    """

    __slots__ = ("_is_delivering", "_pending", "_subscriptions", "has_listeners", "has_session_listeners")

    def __init__(self) -> None:
        self.has_listeners = self.has_session_listeners = False
        self._subscriptions: tuple[_Subscription, ...] = ()
        self._pending: deque[Happening] = deque()
        self._is_delivering = False

    def subscribe(self, listener: Listener, *, with_sessions: bool = True) -> Callable[[], None]:
        """Deliver happenings to a listener from now on; return the function that ends that.

        Args:
            listener: The listener.
            with_sessions: Whether it receives `LeaseGranted`, and `LeaseEnded` for a release.

        Raises:
            UsageError: The listener cannot be called, or is a coroutine function, which nobody would await.
        """
        if not callable(listener):
            raise UsageError(f"listener: must be callable, got {listener!r}")
        call = getattr(listener, "__call__", None)  # noqa: B004  of an object that can be called
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(call):
            raise UsageError("listener: must be a plain function, because nothing awaits it; it may put into a queue")
        subscription = _Subscription(listener, with_sessions=with_sessions)
        self._replace((*self._subscriptions, subscription))
        return lambda: self._end(subscription)

    def emit(self, happening: Happening) -> None:
        """Deliver a happening. If a listener causes it during a delivery, it follows after that delivery."""
        self._pending.append(happening)
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._pending:
                self._deliver(self._pending.popleft())
        finally:
            self._is_delivering = False

    def forget_delivery(self) -> None:
        """Forget a delivery under way. For the copy of a forked process, which may have been made during one."""
        self._pending.clear()
        self._is_delivering = False

    def _deliver(self, happening: Happening) -> None:
        is_of_session = _is_of_session(happening)
        for subscription in self._subscriptions:
            if not subscription.is_open or (is_of_session and not subscription.with_sessions):
                continue  # it is not for this one, or an earlier listener ended it just now
            try:
                subscription.listener(happening)
            except (Exception, CancelledError):
                logger.exception("listener: %r failed, and is not called any more", subscription.listener)
                self._end(subscription)

    def _end(self, subscription: _Subscription) -> None:
        subscription.is_open = False
        self._replace(tuple(one for one in self._subscriptions if one is not subscription))

    def _replace(self, subscriptions: tuple[_Subscription, ...]) -> None:
        self._subscriptions = subscriptions
        self.has_listeners = bool(subscriptions)
        self.has_session_listeners = any(one.with_sessions for one in subscriptions)


class _Subscription:
    """One call of `subscribe`. The same listener may have several."""

    __slots__ = ("is_open", "listener", "with_sessions")

    def __init__(self, listener: Listener, *, with_sessions: bool) -> None:
        self.listener = listener
        self.with_sessions = with_sessions
        self.is_open = True


def _is_of_session(happening: Happening) -> bool:
    if isinstance(happening, LeaseEnded):
        return happening.end is LeaseEnd.RELEASED
    return isinstance(happening, LeaseGranted)
