"""Routers as the tests of the proxy start them."""

from tests.proxy.conftest import pytest_asyncio_loop_factories, start_router

__all__ = ["pytest_asyncio_loop_factories", "start_router"]
