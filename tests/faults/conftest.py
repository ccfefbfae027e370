"""The seed that chooses what a default run tries, and the figures that a run measured."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

SEED = os.environ.get("TIDEGATE_FAULT_SEED") or str(random.SystemRandom().randrange(10**6))
"""Printed with every run; the same seed chooses the same cases."""

_figures = pytest.StashKey[list[str]]()

Note = Callable[[str], None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Keeps a measured figure for the end of the run."""
    kept = request.config.stash.setdefault(_figures, [])
    return lambda figure: kept.append(f"{request.node.name}: {figure}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"faults: TIDEGATE_FAULT_SEED={SEED}")
    for figure in config.stash.get(_figures, []):
        terminalreporter.write_line(f"faults: {figure}")
