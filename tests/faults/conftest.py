"""The seed that chooses what a default run tries, and the figures that a run measured."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

SEED = os.environ.setdefault("TIDEGATE_FAULT_SEED", str(random.SystemRandom().randrange(10**6)))
"""Printed with every run; the same seed chooses the same cases. By environment, so that the processes which share the
tests of a run agree on them."""

Note = Callable[[str], None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Keeps a measured figure for the end of the run."""
    return lambda figure: request.node.user_properties.append(("figure", figure))
