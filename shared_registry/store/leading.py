"""The verbs of candidates and leaders: the leader's lease, and the writes that only the leader makes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from shared_registry.aio.completion import completed
from shared_registry.errors import Fenced, KeyConflict
from shared_registry.model import Leader, ProbeResult, Share, Term, Thresholds
from shared_registry.store.answers import BeginWrite, events_of, evidence_words, expect, limit_words, new_token
from shared_registry.store.channel import Channel, Reply
from shared_registry.store.codec import milliseconds, parse_plan
from shared_registry.store.replies import Elected, Held, Participants, Report, Resignation


class LeaderCommands:
    """The part of `Store` for the leadership. Its calls use the lane of the heartbeats."""

    _router: str
    _control: Channel
    _begin_write: BeginWrite

    async def campaign(self, token: str, *, lease_seconds: float, seen_epoch: int) -> Elected | Held:
        """Campaign for the leadership.

        A repeated call with the token of the leader returns `Elected` and restarts its lease.

        Args:
            token: An id from `new_token`, one for each candidacy.
            lease_seconds: How long the leader's lease lasts without `renew`.
            seen_epoch: The highest epoch that this router has seen. A new epoch is higher.
        """
        reply = await self._control.run(
            "campaign", [self._router, token, milliseconds(lease_seconds), str(seen_epoch), new_token()]
        )
        if expect(reply, "elected", "held") == "elected":
            return Elected(int(reply.values[0]))
        router, epoch, elected_at_ms, remaining_ms = reply.values
        return Held(Leader(router, int(epoch), int(elected_at_ms) / 1000), int(remaining_ms) / 1000)

    async def renew(self, token: str, *, lease_seconds: float) -> bool:
        """Extend the leader's lease. Return `False` if the token is not the leader's any more."""
        reply = await self._control.run("renew", [token, milliseconds(lease_seconds)])
        return expect(reply, "renewed", "lost") == "renewed"

    async def resign(self, token: str, *, reason: str = "", handicap_seconds: float = 0.0) -> Resignation:
        """End the leader's lease. The event carries the reason.

        Args:
            token: The token of the leader. With another token nothing happens.
            reason: Why it resigns.
            handicap_seconds: How long other routers campaign first. The leader stays if there are none without a
                handicap. 0 for a leader that resigns because it stops.
        """
        reply = await self._control.run("resign", [token, reason, milliseconds(handicap_seconds)])
        return Resignation(expect(reply, *(kind.value for kind in Resignation)))

    async def step_down(self, epoch: int, *, sit_out_seconds: float, by: str = "", reason: str = "") -> str | None:
        """End the lease of the leader of that epoch. Return the router's key, or `None` if the epoch is over.

        Args:
            epoch: The epoch of the term, so that a repeated call does not end the next term.
            sit_out_seconds: How long the deposed router must not campaign.
            by: The person or program that requested it.
            reason: The reason that they gave.
        """
        reply = await self._control.run("step_down", [str(epoch), milliseconds(sit_out_seconds), by, reason])
        return reply.values[0] if expect(reply, "deposed", "over") == "deposed" else None

    async def declare_panic(self, term: Term, why: str) -> bool:
        """Record why there is panic, or with an empty text that there is none. Return whether that was a change.

        Raises:
            Fenced: The term is over; nothing was written.
        """
        reply = await self._run_leading("declare_panic", [term.token, str(term.epoch), why])
        status = expect(reply, "declared", "unchanged", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its report about panic was refused")
        return status == "declared"

    async def advance_ramps(self, term: Term, urls: Sequence[str], *, slow_start_seconds: float) -> list[str]:
        """Update the ready scores of replicas that ramp up. Return the urls whose ramp is not over.

        Args:
            term: The leader's term.
            urls: Canonical urls, at most about 100.
            slow_start_seconds: The ramp length for replicas that turn healthy from now on; 0 for no ramp.

        Raises:
            Fenced: The term is over; nothing was written.
        """
        reply = await self._run_leading(
            "advance_ramps", [term.token, str(term.epoch), milliseconds(slow_start_seconds), *urls]
        )
        if expect(reply, "advanced", "fenced") == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its update of slow start was refused")
        return list(reply.values)

    async def participants(self, term: Term) -> Participants:
        """Return the routers that can share the probing, and the present plan.

        Raises:
            Fenced: The term is over.
        """
        reply = await self._run_leading("list_participants", [term.token, str(term.epoch)])
        if expect(reply, "listed", "fenced") == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its question about participants was refused")
        count, next_ms, *words = reply.values
        routers, fields = words[: int(count)], words[int(count) :]
        plan = None
        with contextlib.suppress(KeyConflict):  # a damaged plan is written anew
            plan = parse_plan(dict(zip(fields[::2], fields[1::2], strict=True)))
        return Participants(sorted(routers), plan, int(next_ms) / 1000 if next_ms else None)

    async def write_plan(self, term: Term, shares: Mapping[str, str]) -> bool:
        """Store which router probes the replicas of each bucket. Return whether that was a change.

        Args:
            term: The leader's term.
            shares: For each bucket, the key of its router. Without any the leader probes all replicas.

        Raises:
            Fenced: The term is over; nothing was written.
        """
        buckets: dict[str, list[str]] = {}
        for bucket, router in sorted(shares.items()):
            buckets.setdefault(router, []).append(bucket)
        words = [word for router, owned in sorted(buckets.items()) for word in (router, " ".join(owned))]
        reply = await self._run_leading("write_plan", [term.token, str(term.epoch), *words])
        status = expect(reply, "written", "unchanged", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its plan was refused")
        return status == "written"

    async def report(
        self, mandate: Term | Share, batch: int, results: Sequence[ProbeResult], thresholds: Thresholds
    ) -> Report:
        """Apply a batch of probe results. A repeated call does not apply it again.

        Not all results are applied if many replicas change their status; see `Report.done`. The rest belongs in the
        next batch.

        Args:
            mandate: The leader's term, or this router's share of the plan under which the probes began.
            batch: The number of the batch. It rises within a term, and over all shares of a router.
            results: The results.
            thresholds: The thresholds and times of probes.

        Raises:
            Fenced: The term or the plan is over; nothing was written.
        """
        name, args = _mandate_words(mandate)
        args += [str(batch), *limit_words(thresholds)]
        for result in results:
            args += [result.key, result.incarnation, *evidence_words(result)]
        take = self._begin_write()
        reply = await self._run_leading(name, args)
        status = expect(reply, "applied", "duplicate", "fenced")
        if status == "fenced":
            over = f"epoch {mandate.epoch}" if isinstance(mandate, Term) else f"plan {mandate.number}"
            raise Fenced(f"{over} is over; its {len(results)} probe results were refused")
        if status == "duplicate":
            return Report(done=int(reply.values[0]), is_duplicate=True)
        done, dropped, *events = reply.values
        return Report(events_of(events, take), done=int(done), dropped=int(dropped))

    async def _run_leading(self, name: str, args: Sequence[str]) -> Reply:
        """Call a command of the leader, and complete the call even if the end of the term cancels it.

        An interrupted call closes its connection, and the leader needs a connection to resign. A leader that resigns
        because the process has no free file descriptors could not open a new one.
        """
        return await completed(self._control.run(name, args))


def _mandate_words(mandate: Term | Share) -> tuple[str, list[str]]:
    """Return the command for reports under a mandate, and the words that show the mandate."""
    if isinstance(mandate, Term):
        return "report_probes", [mandate.token, str(mandate.epoch)]
    return "report_share", [mandate.router, str(mandate.number)]
