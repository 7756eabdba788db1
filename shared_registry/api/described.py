"""Answers with the OpenAPI document and its page.

They are made at the first request, in a thread: that takes a tenth of a second, which sessions must not wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response

from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.api.docs_page import POLICY, docs_page
from shared_registry.api.openapi import openapi_document
from shared_registry.api.operations import Operation
from shared_registry.config.admin_tokens import Right


class DescribedApi:
    """The descriptions of one router's API."""

    def __init__(self, operations: Iterable[Operation], is_open: Callable[[Right], bool]) -> None:
        """Set up. The arguments are those of `openapi_document`."""
        self._operations = tuple(operations)
        self._is_open = is_open
        self._made: tuple[str, str] | None = None
        self._making = asyncio.Lock()

    async def document(self, _: Request) -> Response:
        """Answer with the document."""
        return Response((await self._texts())[0], media_type="application/json")

    async def page(self, _: Request) -> Response:
        """Answer with the page."""
        text = (await self._texts())[1]
        return Response(text, media_type="text/html", headers={"content-security-policy": POLICY})

    async def _texts(self) -> tuple[str, str]:
        async with self._making:
            if self._made is None:
                self._made = await call_in_daemon_thread(self._make)
            return self._made

    def _make(self) -> tuple[str, str]:
        document = openapi_document(self._operations, self._is_open)
        return json.dumps(document), docs_page(document)
