"""Converts arguments of the store's verbs to words of a command, and its reply to results and errors."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from shared_registry.errors import KeyConflict, StoreError
from shared_registry.model import Event, ProbeResult, Thresholds
from shared_registry.store.channel import Reply
from shared_registry.store.codec import milliseconds, parse_events
from shared_registry.store.schema import wrong_cluster, wrong_schema

TakeEvents = Callable[[Sequence[Event]], None]
BeginWrite = Callable[[], TakeEvents]


def new_token() -> str:
    """Return a random id for an incarnation, a candidacy or a history."""
    return secrets.token_hex(8)


def flag(value: bool) -> str:  # noqa: FBT001  a value
    """Return a boolean as commands expect it."""
    return "1" if value else "0"


def ignore_events(events: Sequence[Event]) -> None:
    """Ignore events. Used for a store without a mirror."""


def events_of(values: Sequence[str], take: TakeEvents) -> list[Event]:
    """Pass the events in a reply to `take`, and return them."""
    events = parse_events(values)
    take(events)
    return events


def outcome_words(result: ProbeResult) -> list[str]:
    """Return one probe result or outcome as commands expect it, without the replica's url."""
    return [result.incarnation, flag(result.error is None), f"{result.latency_ms:.3f}", result.error or ""]


def evidence_words(result: ProbeResult) -> list[str]:
    """Return what a probe says about a replica as commands expect it: outcome, latency, error and address."""
    outcome = "unsure" if result.is_unsure else "ok" if result.error is None else "failed"
    return [outcome, f"{result.latency_ms:.3f}", result.error or "", result.address if outcome == "failed" else ""]


def limit_words(thresholds: Thresholds) -> list[str]:
    """Return thresholds and times of probes as commands expect them."""
    times = [milliseconds(thresholds.interval_seconds), milliseconds(thresholds.timeout_seconds)]
    return [str(thresholds.failure), str(thresholds.recovery), *times]


def expect(reply: Reply, *words: str) -> str:
    """Return the status word of a reply if it is one of `words`.

    Raises:
        KeyConflict: A key has another type than the registry's.
        StoreRefused: The namespace has a schema that this version cannot use, or belongs to another cluster.
        StoreError: The status word is unknown.
    """
    if reply.status in words:
        return reply.status
    if reply.status == "wrong_type":
        key, found, wanted = reply.values
        raise KeyConflict(f"key {key} is a {found}, not a {wanted}; move or delete it, nothing was written")
    if reply.status == "wrong_schema":
        raise wrong_schema(reply.values[0])
    if reply.status == "wrong_cluster":
        raise wrong_cluster(*reply.values)
    raise StoreError(f"a command answered {reply.status!r}, which this version does not know")
