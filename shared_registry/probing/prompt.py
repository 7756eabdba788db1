"""Probes without a task: most probes of a large fleet are like that, and a task costs more than all the rest of one.

Those over kept connections begin together and end together: what is done for all of them at once is done once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from shared_registry.aio.wheel import Limit, Wheel
from shared_registry.errors import ConfigError
from shared_registry.probing.connection import ProbeFailure, Response, Unanswered
from shared_registry.probing.kept import KeptConnection
from shared_registry.probing.origins import EXCHANGES_PER_CONNECTION, ProbedOrigin, ProbedOrigins
from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.text import one_line, timeout_text

DIAL_EFFORT, HANDSHAKE_EFFORT = 2, 8
"""How much work it is to begin a probe that opens a connection, and one with TLS: see `PromptProbe.begin`."""
CONNECTING, WAITING = "connecting", "waiting for the response"


class PromptProbe(Limit):
    """The probes of one url, one after the other.

    Attributes:
        owner: Whatever the caller needs to know which one it is.
        origin: The origin.
        seconds: How long the last one took, if it ended well.
    """

    __slots__ = (
        "_kept",
        "_opens_connection",
        "_request",
        "_started",
        "_target",
        "_together",
        "origin",
        "owner",
        "seconds",
    )

    def __init__(self, together: PromptProbes, origin: ProbedOrigin, target: str, owner: Any) -> None:
        super().__init__()
        self._together = together
        self.origin = origin
        self._target = target
        self.owner = owner
        self._request = together.origins.request(origin, target).packed
        self._kept: KeptConnection | None = None
        self._started = self.seconds = 0.0
        self._opens_connection = False

    @property
    def outcome(self) -> ProbeOutcome:
        """The outcome of the last one, if it ended well."""
        return self._outcome(self.seconds, None)

    @property
    def is_under_way(self) -> bool:
        """Whether one is under way."""
        return self._kept is not None

    def begin(self, *, fresh: bool) -> int:
        """Begin one, over a new connection if necessary. The one before must have been handed over.

        Returns:
            How much work that was, compared with one over a kept connection. 0 if it has not begun, because it needs a
            task, such as for a lookup, or because another one is under way there. `HttpProber.ask` must be called then.

        Args:
            fresh: See `HttpProber.ask`.
        """
        origin = self.origin
        kept = origin.kept
        if fresh or kept is None or not kept.is_usable or kept.exchanges >= EXCHANGES_PER_CONNECTION or origin.is_named:
            return self._begin_otherwise(fresh=fresh)
        if not origin.turn.try_take():
            return 0
        self._start(kept)
        return 1

    def give_up(self) -> None:
        """End it without a word, and close its connection, unless it has ended."""
        if self._kept is not None:
            self._kept = None
            self._together.drop(self)
            self.origin.hang_up()
            self.origin.turn.give_back()

    def expire(self) -> None:
        """End it, because its time is over, unless it has ended well and waits to be handed over."""
        kept = self._kept
        if kept is not None:
            activity = WAITING if kept.has_connected else CONNECTING
            self._fail(f"{timeout_text(self._together.timeout)} while {activity}")

    def _begin_otherwise(self, *, fresh: bool) -> int:
        """Begin one whose kept connection is not all that it takes."""
        origins = self._together.origins
        if self.origin.is_forgotten and not origins.is_closed:
            self.origin, self._target = origins.at(self.origin.key + self._target)
        origin = self.origin
        if origins.is_closed or not origin.turn.try_take():
            return 0
        has_to_dial = fresh or (origin.is_named and not origins.is_where_its_name_is(origin))
        kept = None if has_to_dial else origins.kept(origin)
        dialed = origins.dial(origin, fresh=fresh) if kept is None else None
        connection = kept or dialed
        if connection is None:
            origin.turn.give_back()
            return 0
        self._start(connection)
        return 1 if dialed is None else HANDSHAKE_EFFORT if origin.is_https else DIAL_EFFORT

    def _start(self, kept: KeptConnection) -> None:
        self._together.limit_soon(self)
        self._kept, self._opens_connection = kept, not kept.exchanges
        self._started = time.perf_counter()
        kept.begin(self._request, self._answered)

    def _answered(self, found: Response | ProbeFailure | OwnTrouble) -> None:
        """End it, because its exchange has ended."""
        if not isinstance(found, Response):
            self._fail_with(found)
        elif (error := self._together.mismatch(found)) is not None:
            self._fail(error)
        else:
            self.seconds = time.perf_counter() - self._started
            origin, kept, self._kept = self.origin, cast("KeptConnection", self._kept), None
            if self._opens_connection or not kept.is_usable or origin.is_forgotten:
                self._together.origins.keep(origin, kept)
            origin.turn.give_back()
            self._together.hand_over_soon(self)

    def _fail_with(self, found: ProbeFailure | OwnTrouble) -> None:
        if isinstance(found, Unanswered) and not self._opens_connection:
            self.give_up()
            self._together.on_ended(self, time.perf_counter() - self._started)
        elif isinstance(found, OwnTrouble):
            self.give_up()
            self._together.on_ended(self, ProbeOutcome((time.perf_counter() - self._started) * 1000, trouble=found))
        else:
            self._fail(one_line(str(found)))

    def _fail(self, error: str) -> None:
        seconds = time.perf_counter() - self._started
        self.give_up()
        self._together.on_ended(self, self._outcome(seconds, error))

    def _outcome(self, seconds: float, error: str | None) -> ProbeOutcome:
        origin = self.origin
        return ProbeOutcome(seconds * 1000, error, None, origin.address, origin.looked_up_at)


PromptsSucceeded = Callable[[Sequence[PromptProbe]], None]
PromptEnded = Callable[[PromptProbe, ProbeOutcome | float], None]


class PromptProbes:
    """The probes without a task of one caller. See `HttpProber.prompt_probes`."""

    def __init__(
        self,
        origins: ProbedOrigins,
        mismatch: Callable[[Response], str | None],
        *,
        timeout: float,
        on_well: PromptsSucceeded,
        on_ended: PromptEnded,
    ) -> None:
        """Set up; nothing is opened.

        Args:
            origins: The connections.
            mismatch: See `Expectations`.
            timeout: The time limit of each probe, in seconds.
            on_well: See `HttpProber.prompt_probes`.
            on_ended: See `HttpProber.prompt_probes`.
        """
        self.origins = origins
        self.mismatch = mismatch
        self.timeout = timeout
        self.on_ended = on_ended
        self._on_well = on_well
        self._loop = asyncio.get_running_loop()  # to ask for it anew costs a system call
        self._under_way = Wheel()
        self._begun: list[PromptProbe] = []
        self._well: list[PromptProbe] = []
        self._turning: asyncio.TimerHandle | None = None

    def of(self, url: str, owner: Any) -> PromptProbe | None:
        """Return a probe that can be begun again and again; `None` if this is not a replica's url."""
        try:
            origin, target = self.origins.at(url)
        except ConfigError:
            return None
        return PromptProbe(self, origin, target, owner)

    def flush(self) -> None:
        """Hand over what has ended well."""
        well, self._well = self._well, []
        if well:
            self._limit()
            self._under_way.discard(well)
            self._rest()
            self._on_well(well)

    def give_up(self) -> None:
        """End all that are under way, without a word, and close their connections."""
        self._limit()
        for probe in self._under_way.clear():
            cast("PromptProbe", probe).give_up()
        self._rest()

    # For the probes themselves

    def limit_soon(self, probe: PromptProbe) -> None:
        """Limit the time of a probe that begins, with others."""
        if not self._begun:
            self._loop.call_soon(self._limit)
        self._begun.append(probe)

    def hand_over_soon(self, probe: PromptProbe) -> None:
        """Hand a probe over soon, with others."""
        if not self._well:
            self._loop.call_soon(self.flush)
        self._well.append(probe)

    def drop(self, probe: PromptProbe) -> None:
        """Limit the time of a probe no longer."""
        self._limit()
        self._under_way.discard([probe])
        self._rest()

    # Inside

    def _limit(self) -> None:
        """Limit the time of those that have begun since the last call, and are still under way."""
        begun, self._begun = self._begun, []
        self._under_way.add([probe for probe in begun if probe.is_under_way], self.timeout, now=self._loop.time())
        if self._turning is None and len(self._under_way):
            self._turning = self._loop.call_at(self._under_way.next_turn, self._turn)

    def _turn(self) -> None:
        """End those whose time is over."""
        ended = self._under_way.turn(self._loop.time())
        self._turning = None
        if len(self._under_way):
            self._turning = self._loop.call_at(self._under_way.next_turn, self._turn)
        for probe in ended:
            cast("PromptProbe", probe).expire()

    def _rest(self) -> None:
        """Stop the timer if nothing is under way: to wake up for nothing costs much."""
        if self._turning is not None and self._under_way.next_turn == math.inf:
            self._turning.cancel()
            self._turning = None
