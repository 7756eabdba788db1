"""Runs any probe so that it always has an outcome, and always ends."""

from __future__ import annotations

import asyncio
import math
import time

from shared_registry.aio.time_limit import time_limit
from shared_registry.probing.outcome import HttpProbe, ProbeOutcome
from shared_registry.probing.own_trouble import own_trouble
from shared_registry.probing.prober import HttpProber
from shared_registry.probing.text import one_line, timeout_text

GRACE_SECONDS = 0.5
"""The time that `guarded` adds to a probe's timeout. The probe can then report its own timeout, which has details."""


async def guarded(
    probe: HttpProbe, url: str, timeout: float, *, fresh: bool = False, address: str = "", spent: float = 0.0
) -> ProbeOutcome:
    """Run any probe, and always return an outcome.

    An exception, an invalid result, and no result within `timeout` + `GRACE_SECONDS` become errors, unless they are
    this router's own trouble. If the caller is cancelled, the probe is cancelled, and `CancelledError` is raised. If a
    probe ignores its cancellation, this waits for the probe.

    Args:
        probe: The probe.
        url: See `HttpProbe`.
        timeout: See `HttpProbe`.
        fresh: See `HttpProber.ask`; other probes do not receive it.
        address: See `HttpProber.ask`; other probes do not receive it.
        spent: See `HttpProber.ask`; other probes do not receive it.
    """
    started = time.perf_counter()
    error: str | None
    try:
        async with time_limit(timeout + GRACE_SECONDS) as scope:
            if isinstance(probe, HttpProber):
                return await probe.ask(url, timeout=timeout, fresh=fresh, address=address, spent=spent)
            latency_ms, error = _checked(await probe(url, timeout=timeout))
        trouble = None if error is None else own_trouble(error, url=url)
        return ProbeOutcome(latency_ms, None if error is None or trouble else one_line(error), trouble)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        error = "CancelledError: the probe cancelled itself"
    except Exception as failure:  # noqa: BLE001 - an application's probe may raise anything
        if isinstance(failure, TimeoutError) and scope.expired():
            error = f"{timeout_text(timeout)}: the probe did not return"
        elif (trouble := own_trouble(failure, url=url)) is not None:
            return ProbeOutcome((time.perf_counter() - started) * 1000, trouble=trouble)
        else:
            error = f"{type(failure).__name__}: {failure}"
    return ProbeOutcome((time.perf_counter() - started) * 1000, one_line(error))


def _checked(result: object) -> tuple[float, str | None]:
    match result:
        case (float() | int() as latency_ms, None | str() as error) if math.isfinite(latency_ms) and latency_ms >= 0:
            return float(latency_ms), error
    raise TypeError(f"the probe returned {result!r}, expected (latency_ms, error or None)")
