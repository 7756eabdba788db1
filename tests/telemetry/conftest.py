"""Routers with an admin address, as the tests of that start them."""

from tests.api.conftest import start_with_admin
from tests.proxy.conftest import pytest_asyncio_loop_factories, start_process, start_router

__all__ = ["pytest_asyncio_loop_factories", "start_process", "start_router", "start_with_admin"]
