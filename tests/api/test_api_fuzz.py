"""Calls that the OpenAPI document allows, and others, to a router process: each gets what the document promises."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.proxy.conftest import SECONDS, RouterProcess, StartProcess
from tests.support.backend import Backend

schemathesis = pytest.importorskip("schemathesis", exc_type=ImportError)
requests: Any = pytest.importorskip("requests")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(180)]
TOKEN = "sk-all-0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
EXAMPLES = 25
STREAMS = 4
ENOUGH_SECONDS = 40.0
"""After which no further kind of wrong call is begun."""
LONGEST_WAIT = 0.2
OTHER = "http://127.0.0.2:1"


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def test_no_call_fails_in_the_router(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(
        backend.url, admin_port=0, admin_tokens=f"all: {TOKEN} lease announce operate", hold_grace_seconds=0.1
    )
    client = httpx.AsyncClient(base_url=router.admin_url, headers=HEADERS, trust_env=False, timeout=SECONDS)
    async with client as admin:
        lease = (await admin.post("/v1/leases", json={})).json()
        assert (await admin.put(f"/v1/replicas/{OTHER}", json={"name": "gpu-7"})).status_code == 200
        document = (await admin.get("/openapi.json")).json()
        known = {"replica": [backend.url, OTHER, "gpu-7"], "id": [lease["id"]], "name": ["gpu-8"]}
        called = await asyncio.to_thread(fuzz, router, document, known)
        assert (await admin.get("/readyz")).status_code in (200, 503)
    assert called >= {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    assert "Traceback" not in router.command.err


def fuzz(router: RouterProcess, document: dict[str, Any], known: dict[str, list[str]]) -> set[str]:
    """Call each operation many times. Return the ids of those that were called."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = router.admin_url
    schema.config.max_stream_events = 1
    began, called = time.monotonic(), set[str]()
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        call_often(operation, usual(operation, known))
        called.add(operation.definition.raw["operationId"])
    random.shuffle(operations)  # there is not always time for all, because generating these takes some
    for operation in operations:
        if time.monotonic() < began + ENOUGH_SECONDS and (wrong := unusual(operation)) is not None:
            with contextlib.suppress(Unsatisfiable):  # such as where any call is right
                call_often(operation, wrong)
    return called


def usual(operation: Any, known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    """Return calls that the document allows, half of them about things that exist."""
    names = [one.name for one in operation.path_parameters]
    if not names:
        return cast("st.SearchStrategy[Any]", operation.as_strategy())
    about_known = st.sampled_from(known[names[0]]).flatmap(
        lambda value: operation.as_strategy(path_parameters={names[0]: value})
    )
    return cast("st.SearchStrategy[Any]", operation.as_strategy() | about_known)


def unusual(operation: Any) -> st.SearchStrategy[Any] | None:
    """Return calls that the document does not allow; `None` if there are none."""
    try:
        return cast(
            "st.SearchStrategy[Any]", operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        )
    except schemathesis.errors.SchemathesisError:
        return None


def call_often(operation: Any, strategy: st.SearchStrategy[Any]) -> None:
    from schemathesis.specs.openapi import checks

    is_stream = "Server-sent" in str(operation.definition.raw["responses"])

    @settings(
        max_examples=STREAMS if is_stream else EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def call(case: Any) -> None:
        make_harmless(case)
        response = begun(case) if is_stream else case.call(headers=HEADERS, timeout=SECONDS)
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )
        assert response.status_code != 500, (case.as_curl_command(), response.text)

    call()


def begun(case: Any) -> Any:
    """Call, and read a stream for a second; for longer if the router takes longer to begin it."""
    try:
        return case.call(headers=HEADERS, timeout=1)
    except requests.exceptions.Timeout:
        return case.call(headers=HEADERS, timeout=SECONDS)


def make_harmless(case: Any) -> None:
    """Let no call wait in the queue for long, and few end at a pool that does not exist."""
    for members in (case.body, case.query):
        if isinstance(members, dict) and isinstance(members.get("timeout_seconds"), int | float):
            members["timeout_seconds"] = min(members["timeout_seconds"], LONGEST_WAIT)
    if isinstance(case.query, dict) and case.query.get("pool"):
        del case.query["pool"]
