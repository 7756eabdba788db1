"""Which answers say that the primary is elsewhere, in every wording; and what they lead to."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions

from shared_registry.errors import StoreRefused, StoreUnavailable
from shared_registry.store.channel import bounded
from shared_registry.store.failover import Failover, is_lost
from shared_registry.store.failures import meaning_of
from shared_registry.store.lane import Lane

READONLY = "You can't write against a read only replica."


def sentinel_error() -> Exception:
    """As redis-py's connection for sentinels puts it."""
    try:
        try:
            raise exceptions.ReadOnlyError(READONLY)
        except exceptions.ReadOnlyError:
            raise exceptions.ConnectionError("The previous master is now a slave")  # noqa: B904  as there
    except exceptions.ConnectionError as error:
        return error


def wrapped(cause: Exception) -> Exception:
    error = exceptions.RedisClusterException("Redis Cluster cannot be connected")
    error.__cause__ = cause
    return error


LOST = {
    "a command": exceptions.ReadOnlyError(READONLY),
    "a script of Redis 7": exceptions.ReadOnlyError(f"{READONLY} script: 1fa0, on @user_script:12."),
    "a script of Redis 6.2": exceptions.ResponseError(
        f"Error running script (call to f_1fa0): @user_script:12: @user_script: 12: -READONLY {READONLY}"
    ),
    "text": exceptions.ResponseError(f"READONLY {READONLY}"),
    "a blocked read": exceptions.ResponseError(
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
    ),
    "no data": exceptions.MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    "no data in a script": exceptions.ResponseError("Error running script: x: -MASTERDOWN Link with MASTER is down"),
    "a cluster's minority": exceptions.ClusterDownError("The cluster is down"),
    "a copy of the new primary's data": exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    "a sentinel's client": sentinel_error(),
    "a cluster's client": wrapped(exceptions.ReadOnlyError(READONLY)),
}
KEPT = {
    "too few replicas": exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
    "no disk": exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    "no memory": exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    "no rights": exceptions.NoPermissionError("this user has no permissions to run the 'evalsha' command"),
    "a busy script": exceptions.ResponseError("BUSY Redis is busy running a script"),
    "a value that looks like it": exceptions.ResponseError("ERR no such replica READONLY"),
    "a wrong type": exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
}


def lost_after(error: Exception) -> bool:
    failover = Failover()
    failover.ended(error, is_late=False, answers=0, sweeps=0)
    return failover.is_due and failover.generation == 1


@pytest.mark.parametrize("error", LOST.values(), ids=LOST)
def test_a_server_that_is_not_the_primary_is_lost(error: Exception) -> None:
    assert is_lost(error)
    assert lost_after(error)
    assert isinstance(meaning_of(error), StoreUnavailable)


@pytest.mark.parametrize("error", KEPT.values(), ids=KEPT)
def test_a_primary_that_refuses_is_kept(error: Exception) -> None:
    assert not is_lost(error)
    assert not lost_after(error)


def test_an_error_already_being_handled_does_not_count() -> None:
    try:
        try:
            raise StoreUnavailable("away") from exceptions.ReadOnlyError(READONLY)
        except StoreUnavailable:
            raise exceptions.NoPermissionError("no permissions")  # noqa: B904  as it happens
    except exceptions.NoPermissionError as error:
        assert not is_lost(error)
        assert isinstance(meaning_of(error), StoreRefused)


def test_a_late_answer_alone_does_not_lose_the_server() -> None:
    """The server answers other calls."""
    failover = Failover()
    failover.ended(None, is_late=False, answers=0, sweeps=0)
    failover.ended(asyncio.CancelledError(), is_late=True, answers=0, sweeps=0)
    assert failover.generation == 0
    failover.ended(asyncio.CancelledError(), is_late=True, answers=failover.answers, sweeps=0)
    assert failover.generation == 1


def test_a_cancellation_proves_nothing_about_the_server() -> None:
    failover = Failover()
    failover.ended(asyncio.CancelledError(), is_late=False, answers=0, sweeps=0)
    assert (failover.generation, failover.is_due) == (0, False)


def test_a_call_in_progress_requests_another_round_of_closing() -> None:
    failover = Failover()
    failover.moved()
    failover.is_due = False
    failover.ended(None, is_late=False, answers=0, sweeps=0)
    assert failover.is_due


async def test_connections_are_renewed_before_the_next_call() -> None:
    steps: list[str] = []

    async def renew() -> None:
        steps.append("renewed")

    failover = Failover()
    failover.add(renew)
    with pytest.raises(StoreUnavailable, match="replica, not the primary"):
        async with bounded(1.0, failover=failover):
            raise exceptions.ReadOnlyError(READONLY)
    for _ in range(2):
        async with bounded(1.0, failover=failover):
            steps.append("called")
    assert steps == ["renewed", "called", "called"]


async def test_a_failing_or_hanging_renewal_keeps_the_time_bound() -> None:
    async def fail() -> None:
        raise exceptions.ConnectionError("refused")

    async def hang() -> None:
        await asyncio.sleep(60)

    failover = Failover()
    failover.add(fail)
    failover.moved()
    async with bounded(1.0, failover=failover):
        pass
    failover.add(hang)
    failover.moved()
    lane = Lane(1, seconds=0.05)
    with pytest.raises(StoreUnavailable, match="did not answer"):
        async with bounded(0.05, lane=lane, failover=failover):
            pytest.fail("the block was entered")
    assert lane.enter(), "its place was not handed on"
    assert failover.is_due, "what was cut off is still to be done"
