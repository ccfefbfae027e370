"""Fixtures of the gateway's integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.gateway.site import Site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        await site.close()
