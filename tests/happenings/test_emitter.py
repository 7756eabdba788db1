"""Delivering happenings: each listener gets each one once, in order, and none can disturb another or the emitter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from shared_registry.errors import UsageError
from shared_registry.happenings import Emitter, Happening, StoreRecovered


def numbered(number: float) -> Happening:
    return StoreRecovered(at=number)


def test_listeners_get_what_happens_while_they_are_subscribed() -> None:
    emitter, heard = Emitter(), [list[float]() for _ in range(2)]
    assert not emitter.has_listeners
    end_first = emitter.subscribe(lambda it: heard[0].append(it.at))
    emitter.emit(numbered(1))
    end_second = emitter.subscribe(lambda it: heard[1].append(it.at))
    emitter.emit(numbered(2))
    end_first()
    emitter.emit(numbered(3))
    end_second()
    end_second()
    assert not emitter.has_listeners
    emitter.emit(numbered(4))
    assert heard == [[1, 2], [2, 3]]


def test_a_listener_that_was_added_twice_hears_twice() -> None:
    emitter, heard = Emitter(), list[Happening]()
    end = emitter.subscribe(heard.append)
    emitter.subscribe(heard.append)
    emitter.emit(numbered(1))
    end()
    emitter.emit(numbered(2))
    assert [it.at for it in heard] == [1, 1, 2]


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError()])
def test_a_raising_listener_is_logged_once_and_dropped(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    def fail(_: Happening) -> None:
        raise error

    emitter, heard = Emitter(), list[Happening]()
    emitter.subscribe(fail)
    emitter.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        emitter.emit(numbered(1))
        emitter.emit(numbered(2))
    assert [it.at for it in heard] == [1, 2]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_an_interrupt_ends_the_delivery_and_not_the_emitter() -> None:
    def interrupt(happening: Happening) -> None:
        if happening.at == 1:
            raise KeyboardInterrupt

    emitter, heard = Emitter(), list[float]()
    emitter.subscribe(interrupt)
    emitter.subscribe(lambda it: heard.append(it.at))
    with pytest.raises(KeyboardInterrupt):
        emitter.emit(numbered(1))
    emitter.emit(numbered(2))
    assert heard == [2]


def test_a_listener_may_end_subscriptions_during_a_delivery() -> None:
    emitter, heard, ends = Emitter(), list[str](), list[Callable[[], None]]()

    def end_all(_: Happening) -> None:
        heard.append("first")
        for end in ends:
            end()

    ends.append(emitter.subscribe(end_all))
    ends.append(emitter.subscribe(lambda _: heard.append("second")))
    emitter.emit(numbered(1))
    emitter.emit(numbered(2))
    assert heard == ["first"]


def test_what_a_listener_causes_follows_after_the_delivery() -> None:
    emitter, heard = Emitter(), list[tuple[str, float]]()

    def cause(happening: Happening) -> None:
        heard.append(("first", happening.at))
        if happening.at < 3:
            emitter.emit(numbered(happening.at + 1))

    emitter.subscribe(cause)
    emitter.subscribe(lambda it: heard.append(("second", it.at)))
    emitter.emit(numbered(1))
    assert heard == [(who, at) for at in (1, 2, 3) for who in ("first", "second")]


def test_only_plain_functions_can_listen() -> None:
    async def listen(_: Happening) -> None: ...

    class Listening:
        async def __call__(self, _: Happening) -> None: ...

    emitter = Emitter()
    for wrong in (listen, Listening(), "listen"):
        with pytest.raises(UsageError, match="listener"):
            emitter.subscribe(wrong)  # type: ignore[arg-type]
    assert not emitter.has_listeners
