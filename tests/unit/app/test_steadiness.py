"""The interpreter's settings hold while the broker runs, and no longer."""

from __future__ import annotations

import gc
import sys

from broker.app.steadiness import steady_steps


def test_the_interpreter_is_as_before_afterwards() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    with steady_steps():
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0][0]
        assert sys.getswitchinterval() < before[1]
    assert (gc.get_threshold(), sys.getswitchinterval()) == before
    assert gc.get_freeze_count() == 0
