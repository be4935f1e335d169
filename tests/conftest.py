"""What every test runs under."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# So many examples do where the search is blind (any JSON, any text), since `make fuzz` is where that is long. What
# counts, compares or holds windows to each other says its own number.
settings.register_profile("suite", max_examples=30, deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that a test runs in this process configures logging for all of it, and for the tests after it."""
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    before = root.handlers, root.level, server.level
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        root.handlers, root.level, server.level = before
