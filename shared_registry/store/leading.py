"""The verbs of candidates and leaders: the lock, and what only its holder writes."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.aio.completion import completed
from shared_registry.errors import Fenced
from shared_registry.model import Leader, ProbeResult, Term, Thresholds
from shared_registry.store.answers import BeginWrite, events_of, expect, new_token, outcome_words
from shared_registry.store.channel import Channel, Reply
from shared_registry.store.codec import milliseconds
from shared_registry.store.replies import Elected, Held, Report


class LeaderCommands:
    """A part of `Store`. All of it goes by the lane that keeps a router alive."""

    _router: str
    _control: Channel
    _begin_write: BeginWrite

    async def campaign(self, token: str, *, lease_seconds: float, seen_epoch: int) -> Elected | Held:
        """Stand for leader. The same token again finds itself elected and begins its lease anew."""
        reply = await self._control.run(
            "campaign", [self._router, token, milliseconds(lease_seconds), str(seen_epoch), new_token()]
        )
        if expect(reply, "elected", "held") == "elected":
            return Elected(int(reply.values[0]))
        router, epoch, elected_at_ms, remaining_ms = reply.values
        return Held(Leader(router, int(epoch), int(elected_at_ms) / 1000), int(remaining_ms) / 1000)

    async def renew(self, token: str, *, lease_seconds: float) -> bool:
        """Extend the lease; `False` where the token no longer leads."""
        reply = await self._control.run("renew", [token, milliseconds(lease_seconds)])
        return expect(reply, "renewed", "lost") == "renewed"

    async def resign(self, token: str, *, reason: str = "") -> bool:
        """End the lease, for a reason that the event tells; `False` where the token did not lead."""
        reply = await self._control.run("resign", [token, reason])
        return expect(reply, "resigned", "lost") == "resigned"

    async def step_down(self, epoch: int, *, sit_out_seconds: float, by: str = "", reason: str = "") -> str | None:
        """End the lease of whoever leads in that epoch, and return who it was; `None` where the epoch is over.

        Args:
            epoch: Names the term, so that repeating the call does not end the next one.
            sit_out_seconds: How long the deposed router is not to stand again.
            by: Who asked.
            reason: Why.
        """
        reply = await self._control.run("step_down", [str(epoch), milliseconds(sit_out_seconds), by, reason])
        return reply.values[0] if expect(reply, "deposed", "over") == "deposed" else None

    async def declare_panic(self, term: Term, why: str) -> bool:
        """Say why there is panic, or with an empty text that there is none; return whether that was news.

        Raises:
            Fenced: It is not the leader's term any more; nothing was written.
        """
        reply = await self._run_leading("declare_panic", [term.token, str(term.epoch), why])
        status = expect(reply, "declared", "unchanged", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; what it found about panic was refused")
        return status == "declared"

    async def advance_ramps(self, term: Term, urls: Sequence[str], *, slow_start_seconds: float) -> list[str]:
        """Bring the ready scores of these in line with the time, as far as they ramp up; return those that go on.

        Args:
            term: The leader's.
            urls: Canonical urls, some 200 at the most.
            slow_start_seconds: How long replicas ramp that turn healthy from now on.

        Raises:
            Fenced: It is not the leader's term any more; nothing was written.
        """
        reply = await self._run_leading(
            "advance_ramps", [term.token, str(term.epoch), milliseconds(slow_start_seconds), *urls]
        )
        if expect(reply, "advanced", "fenced") == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; it ramps no replica up any more")
        return list(reply.values)

    async def report(self, term: Term, batch: int, results: Sequence[ProbeResult], thresholds: Thresholds) -> Report:
        """Apply a batch of probe results, at most once whatever the number of calls.

        Raises:
            Fenced: It is not the leader's term any more; nothing was written.
        """
        args = [term.token, str(term.epoch), str(batch), str(thresholds.failure), str(thresholds.recovery)]
        for result in results:
            args += [result.key, *outcome_words(result)]
        take = self._begin_write()
        reply = await self._run_leading("report_probes", args)
        status = expect(reply, "applied", "duplicate", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its {len(results)} probe results were refused")
        if status == "duplicate":
            return Report(is_duplicate=True)
        return Report(events_of(reply.values[1:], take), dropped=int(reply.values[0]))

    async def _run_leading(self, name: str, args: Sequence[str]) -> Reply:
        """Call what a term's end may cancel, to its end: the leader resigns over the same connection.

        A call that is cut short closes it, and one that steps aside for want of descriptors could open no other.
        """
        return await completed(self._control.run(name, args))
