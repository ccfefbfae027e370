"""What ``make`` tells people and pipes."""

from __future__ import annotations

import os
import pty
import subprocess

from tests.support.shared_data import REPOSITORY

COLOUR = b"\x1b["


def test_help_is_plain_text_in_a_pipe() -> None:
    told = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, check=True, timeout=30).stdout
    assert b"  demo " in told
    assert COLOUR not in told


def test_help_is_coloured_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run(["make", "help"], cwd=REPOSITORY, stdout=theirs, check=True, timeout=30)
        assert COLOUR in os.read(ours, 100_000)
    finally:
        os.close(ours)
        os.close(theirs)
