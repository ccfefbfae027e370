from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.actuator_worlds import LocalWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    world = LocalWorld(tmp_path)
    yield world
    world.end()
