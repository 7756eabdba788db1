"""What the chart makes of different values."""

from __future__ import annotations

import pytest

from tests.support.charts import VALUES, Charts
from tests.support.helm import rendered


@pytest.fixture(scope="session")
def charts() -> Charts:
    """The objects of each set of values."""
    return {name: rendered(*files, settings=settings) for name, (files, settings) in VALUES.items()}
