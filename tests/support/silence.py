"""Logs are for operators: tests that run thousands of steps do without, which makes them twice as fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def silent_logs() -> Iterator[None]:
    configured = structlog.get_config()
    structlog.configure(processors=[_drop])
    yield
    structlog.configure(**configured)


def _drop(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent
