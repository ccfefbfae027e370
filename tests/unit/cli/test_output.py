"""Tables on terminals of any width, and what is not for terminals at all."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from cli.output import Exit, without
from tests.support.command_line import ROOT

CELLS = {"replica": ["chat-0-g1"], "tier": ["baseline"], "url": ["http://127.0.0.1:45120"], "detail": ["x" * 200]}


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        pytest.param(250, [], id="all of it"),
        pytest.param(68, [], id="the detail is folded"),
        pytest.param(67, ["tier"], id="without what matters least"),
        pytest.param(56, None, id="no table at all rather than a folded url"),
    ],
)
def test_columns_are_left_out_before_a_url_is_folded(width: int, left_out: list[str] | None) -> None:
    assert without(CELLS, whole=("replica", "url"), lesser=("tier",), width=width) == left_out


def test_a_backup_is_not_poured_over_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "cli", "state", "export"]
        ended = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert (ended.returncode, "name a new file" in ended.stderr) == (Exit.USAGE, True)
