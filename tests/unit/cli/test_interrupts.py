"""The first signal ends in order what can be ended in order, and the second ends at once."""

from __future__ import annotations

import ctypes
import signal
import sys

import pytest

from cli.interrupts import Interrupts

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_raises_where_nobody_said_how_to_end(number: signal.Signals) -> None:
    with Interrupts().heard() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interrupts.count == 1


def test_the_first_calls_the_end_and_the_second_raises() -> None:
    ended: list[str] = []
    with Interrupts().heard() as interrupts, interrupts.ending(lambda: ended.append("in order")):
        signal.raise_signal(signal.SIGINT)
        assert ended == ["in order"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_what_cannot_be_ended_in_order_is_left_at_once_and_the_rest_ends_as_before() -> None:
    ended: list[str] = []
    with Interrupts().heard() as interrupts, interrupts.ending(lambda: ended.append("in order")):
        with pytest.raises(KeyboardInterrupt), interrupts.raising():
            signal.raise_signal(signal.SIGINT)
        assert not ended


def test_what_had_to_wait_is_told_afterwards() -> None:
    with Interrupts().heard() as interrupts:
        with interrupts.waiting():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.require_none()


def test_one_that_is_lost_in_a_callback_is_told_afterwards_and_shows_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seen while numba compiled: llvmlite's object cache had been called back at that moment."""
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    with Interrupts().heard() as interrupts:
        callback()
        with pytest.raises(KeyboardInterrupt):
            interrupts.require_none()
    assert "Traceback" not in capsys.readouterr().err


def test_handlers_are_as_they_were_afterwards() -> None:
    before = [*map(signal.getsignal, NUMBERS), sys.unraisablehook]
    with pytest.raises(ValueError, match="whatever"), Interrupts().heard():
        raise ValueError("whatever")
    assert [*map(signal.getsignal, NUMBERS), sys.unraisablehook] == before
