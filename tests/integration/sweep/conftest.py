"""The engine is compiled before any process of these tests needs it: that may take longer than they wait."""

from __future__ import annotations

import pytest

from simulator.engine.fleet import make_ready


@pytest.fixture(scope="session", autouse=True)
def compiled_engine() -> None:
    make_ready()
