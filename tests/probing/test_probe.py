"""The parts of a probe that need no network: the body check, error texts, and the guard around anybody's probe."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any, cast

import pytest

from shared_registry.errors import UsageError
from shared_registry.probing import Evidence, HttpProbe, HttpProber, ProbeOutcome, guarded
from shared_registry.probing import guard as guard_module
from shared_registry.probing.connection import reason_of
from shared_registry.probing.expectations import body_mismatch
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.text import MAX_ERROR_LENGTH, one_line

URL = "http://10.0.0.1:8000/health"


@pytest.mark.parametrize(
    ("body", "expect", "mismatch"),
    [
        (b'{"status": "ready"}', {"status": "ready"}, None),
        (b'\xef\xbb\xbf{"status": "ready"}', {"status": "ready"}, None),
        (b'{"status": "ready", "extra": [1, {}]}', {"status": "ready"}, None),
        (b'{"a": 1, "b": true, "c": 0.5, "d": "x"}', {"a": 1, "b": True, "c": 0.5, "d": "x"}, None),
        (b'{"a": 1.0}', {"a": 1}, None),
        (b'{"a": 1}', {"a": 1.0}, None),
        (b'{"a": 1, "a": 2}', {"a": 2}, None),
        (b'{"status": "warming"}', {"status": "ready"}, "body: status is 'warming', expected 'ready'"),
        (b'{"a": 1, "b": 2}', {"a": 1, "b": 3}, "body: b is 2, expected 3"),
        (b'{"a": true}', {"a": 1}, "body: a is true, expected 1"),
        (b'{"a": 1}', {"a": True}, "body: a is 1, expected true"),
        (b'{"a": 0}', {"a": False}, "body: a is 0, expected false"),
        (b'{"a": "1"}', {"a": 1}, "body: a is '1', expected 1"),
        (b'{"a": null}', {"a": "x"}, "body: a is null, expected 'x'"),
        (b'{"a": NaN}', {"a": 1.5}, "body: a is NaN, expected 1.5"),
        (b'{"a": [1]}', {"a": 1}, "body: a is a list, expected 1"),
        (b'{"a": {"b": 1}}', {"a": 1}, "body: a is an object, expected 1"),
        (b"{}", {"status": "ready"}, "body: no status, expected 'ready'"),
        (b'["status"]', {"status": "ready"}, "body: a list, expected a JSON object"),
        (b'"ready"', {"status": "ready"}, "body: 'ready', expected a JSON object"),
        (b"true", {"status": "ready"}, "body: true, expected a JSON object"),
        (b"", {"status": "ready"}, "body: empty, expected JSON"),
        (b"<html>", {"status": "ready"}, "body: not JSON but '<html>'"),
        (b"\xff\xfe\xfa", {"status": "ready"}, "body: not JSON but '\ufffd\ufffd\ufffd'"),
        (b'{"a": "\\u0000\\n"}', {"a": "x"}, "body: a is '\\x00\\n', expected 'x'"),
    ],
)
def test_a_body_must_carry_the_expected_values(body: bytes, expect: Mapping[str, Any], mismatch: str | None) -> None:
    assert body_mismatch(body, expect) == mismatch


@pytest.mark.parametrize(
    "body",
    [b"[" * 60_000, b'{"a": ' * 10_000, b'{"a": 1' + b"0" * 60_000 + b"}", b"\x00" * 60_000, b'{"a": "\\ud800"}'],
    ids=["deep list", "deep object", "long number", "zeros", "half a surrogate pair"],
)
def test_every_odd_body_is_described_in_one_bounded_line(body: bytes) -> None:
    mismatch = body_mismatch(body, {"a": "ready"})
    assert mismatch is not None
    assert len(mismatch) <= MAX_ERROR_LENGTH
    assert mismatch.isprintable()


def test_a_long_value_does_not_hide_what_was_expected() -> None:
    mismatch = body_mismatch(b'{"status": "' + b"x" * 60_000 + b'"}', {"status": "ready"})
    assert mismatch is not None
    assert mismatch.endswith("xx…, expected 'ready'")
    assert len(mismatch) < 100


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("HTTP 503", "HTTP 503"),
        ("two\r\nlines\tand  spaces ", "two lines and spaces"),
        ("\x1b[31mred\x07\x00", "[31mred"),
        ("right\u202eto left\u2028line", "right to left line"),
        ("half \ud800 pair", "half pair"),
        ("größer", "größer"),
        ("x" * MAX_ERROR_LENGTH, "x" * MAX_ERROR_LENGTH),
        ("x" * 10_000, "x" * (MAX_ERROR_LENGTH - 1) + "…"),
    ],
)
def test_error_texts_are_one_printable_bounded_line(text: str, line: str) -> None:
    assert one_line(text) == line


def _refused(address: str) -> OSError:
    return OSError(errno.ECONNREFUSED, f"Connect call failed {address}")


def _unverified() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1002)")
    error.verify_message = "self-signed certificate"
    return error


def _tls(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] it went wrong (_ssl.c:1002)")
    error.reason = reason  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (_refused("('127.0.0.1', 9)"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
        (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), os.strerror(errno.ETIMEDOUT).lower()),
        (OSError(f"Multiple exceptions: {_refused('a')}, {_refused('b')}"), "connection refused"),
        (
            OSError(f"Multiple exceptions: {_refused('a')}, {OSError(errno.ENETUNREACH, 'b')}"),
            "connection refused, network is unreachable",
        ),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (_unverified(), "certificate verify failed: self-signed certificate"),
        (_tls("WRONG_VERSION_NUMBER"), "TLS: wrong version number"),
        (ConnectionResetError(), "connection reset by peer"),
        (ConnectionAbortedError(), "ConnectionAbortedError"),
        (OSError("something else"), "something else"),
    ],
)
def test_reasons_are_given_in_the_systems_words(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    "url",
    ["", "10.0.0.1/health", "ftp://10.0.0.1/health", "http:///health", "http://a b/health", "http://u:secret@h/health"],
)
async def test_an_invalid_url_fails_the_probe_without_showing_secrets(url: str) -> None:
    async with HttpProber() as prober:
        latency_ms, error = await prober(url, timeout=1.0)
    assert latency_ms == 0.0
    assert error is not None
    assert error.startswith("url: ")
    assert "secret" not in error


async def test_a_closed_prober_reports_that_it_is_closed() -> None:
    prober = HttpProber()
    await prober.aclose()
    await prober.aclose()
    with pytest.raises(UsageError, match="closed"):
        await prober(URL, timeout=1.0)


def _returns(result: object) -> HttpProbe:
    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        assert (url, timeout) == (URL, 2.0)
        return cast("tuple[float, str | None]", result)

    return probe


def _raises(error: BaseException) -> HttpProbe:
    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        raise error

    return probe


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ((1.5, None), ProbeOutcome(1.5)),
        ((0, "down"), ProbeOutcome(0.0, "down")),
        ([1.5, "a\nb"], ProbeOutcome(1.5, "a b")),
        ((1.5, ""), ProbeOutcome(1.5, "")),
    ],
)
async def test_the_guard_passes_a_result_through(result: object, outcome: ProbeOutcome) -> None:
    assert await guarded(_returns(result), URL, 2.0) == outcome


@pytest.mark.parametrize(
    "result",
    [
        None,
        1.5,
        "ok",
        (1.5,),
        (1.5, None, 1),
        (None, None),
        ("1", None),
        (1.5, 503),
        (-1.0, None),
        (float("nan"), None),
    ],
)
async def test_a_result_of_another_shape_is_a_failure(result: object) -> None:
    outcome = await guarded(_returns(result), URL, 2.0)
    assert outcome.error is not None
    assert outcome.error.startswith("TypeError: the probe returned ")
    assert outcome.latency_ms >= 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no\nsuch thing"), "ValueError: no such thing"),
        (TimeoutError(), "TimeoutError:"),
        (ExceptionGroup("several", [OSError("x")]), "ExceptionGroup: several (1 sub-exception)"),
        (asyncio.CancelledError(), "CancelledError: the probe cancelled itself"),
        (RuntimeError("x" * 1000), "RuntimeError: " + "x" * (MAX_ERROR_LENGTH - 15) + "…"),
    ],
)
async def test_the_guard_turns_an_exception_into_text(error: BaseException, text: str) -> None:
    assert (await guarded(_raises(error), URL, 2.0)).error == text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
async def test_the_guard_passes_exceptions_that_end_the_process(error: BaseException) -> None:
    with pytest.raises(type(error)):
        await guarded(_raises(error), URL, 2.0)


async def test_a_guarded_probe_that_never_returns_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "GRACE_SECONDS", 0.0)
    was_cancelled = False

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        nonlocal was_cancelled
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled = True
        raise AssertionError

    outcome = await guarded(probe, URL, 0.01)
    assert outcome.error == "timeout after 0.01s: the probe did not return"
    assert outcome.latency_ms >= 9  # uvloop counts in whole milliseconds
    assert was_cancelled


async def test_cancelling_a_guarded_probe_passes_and_cancels_it() -> None:
    is_running, was_cancelled = asyncio.Event(), asyncio.Event()

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        is_running.set()
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()
        raise AssertionError

    task = asyncio.create_task(guarded(probe, URL, 60.0))
    await is_running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert was_cancelled.is_set()


@pytest.mark.parametrize(
    ("outcome", "evidence"),
    [
        (ProbeOutcome(1.0), Evidence.OK),
        (ProbeOutcome(1.0, "HTTP 500"), Evidence.FAILED),
        (ProbeOutcome(1.0, trouble=OwnTrouble("too many open files", "raise it")), Evidence.UNSURE),
    ],
)
def test_an_outcome_is_one_of_three_kinds_of_evidence(outcome: ProbeOutcome, evidence: Evidence) -> None:
    assert outcome.evidence is evidence
