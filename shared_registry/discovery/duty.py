"""The leader's duty to follow all sources of discovery of its settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.aio.supervise import is_cancelled
from shared_registry.config import RouterConfig
from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.discovery.answer import DiscoverySource, SourceAnswer
from shared_registry.discovery.following import DiscoveryStore, FollowedSource, Following
from shared_registry.discovery.kinds import make_source
from shared_registry.discovery.readings import ReadSource
from shared_registry.errors import Fenced, MissingExtra
from shared_registry.model import Event, Term
from shared_registry.selection.view import View

LONGEST_PAUSE_SECONDS = 10.0
logger = logging.getLogger(__name__)


class CurrentTerm(Protocol):
    """The leader's term."""

    @property
    def epoch(self) -> int:
        """See `Term`."""

    @property
    def token(self) -> str:
        """See `Term`."""

    @property
    def is_current(self) -> bool:
        """Whether the leader may still act."""


class Discovery:
    """Follows the sources of one registry while this router is the leader. `run` once per term.

    Attributes:
        states: What is known of each source, by its name such as `dns:pods`; empty while this router does not lead.
    """

    def __init__(
        self,
        store: DiscoveryStore,
        view: View,
        config: RouterConfig,
        *,
        clock: Clock,
        rng: random.Random,
        make: Callable[[DiscoveryRule], DiscoverySource] = make_source,
    ) -> None:
        """Set up.

        Args:
            store: Writes what was discovered.
            view: Shows what the registry has.
            config: The settings, which name the sources.
            clock: The monotonic clock.
            rng: Used for jitter.
            make: Makes a source. If a package for it is not installed, that is logged, and the others are followed.
        """
        self._store = store
        self._view = view
        self._rules = config.discovery
        self._config = config
        self._make = make
        self._clock = clock
        self._rng = rng
        self._states: dict[str, FollowedSource] = {}

    @property
    def states(self) -> Mapping[str, FollowedSource]:
        """See the class."""
        return self._states

    def notice(self, events: Sequence[Event]) -> None:
        """Do nothing: the next answer of a source finds what has changed."""

    async def run(self, term: CurrentTerm) -> None:
        """Follow all sources until the term ends.

        Raises:
            Fenced: Another router is the leader.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for rule in self._rules:
                    group.create_task(self._follow(term, rule))
        except BaseExceptionGroup as failures:
            fenced, rest = failures.split(Fenced)
            if fenced is None or rest is not None:
                raise
            raise Fenced(f"epoch {term.epoch} is over; what was discovered was refused") from None
        finally:
            self._states.clear()

    def _source(self, rule: DiscoveryRule) -> DiscoverySource:
        source = self._make(rule)
        if rule.capacity_from is None and rule.ready_from is None:
            return source
        return ReadSource(source, rule, self._config)

    async def _follow(self, term: CurrentTerm, rule: DiscoveryRule) -> None:
        following = Following(
            self._store, self._view, rule.source, confirm_seconds=rule.confirm_seconds, clock=self._clock
        )
        self._states[rule.source] = following.state
        backoff = Backoff(longest_seconds=LONGEST_PAUSE_SECONDS, rng=self._rng)
        while term.is_current:
            try:
                async with contextlib.aclosing(self._source(rule).answers()) as answers:
                    async for answer in answers:
                        await following.take(Term(term.epoch, term.token), answer)
                        backoff.reset()
            except Fenced:
                raise
            except MissingExtra as error:
                await following.take(Term(term.epoch, term.token), SourceAnswer(failure=str(error)))
            except Exception:
                logger.exception("discovery: following %s failed; trying again", rule.source)
                if is_cancelled():
                    raise asyncio.CancelledError from None
            await self._clock.sleep(backoff.next_seconds())
