"""A trace that is far larger than the memory that may be used, and one that says so of its gaps."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli.output import Exit
from tests.support.command_line import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROWS = 7_000_000
MOST_BYTES = 3 << 30
"""Of addresses, of which numpy, numba and LLVM take more than 2 GiB before anything is read."""


def test_hundreds_of_megabytes_are_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    with path.open("w") as stream:
        stream.write("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n")
        for begin in range(0, ROWS, 100_000):
            rows = range(begin, begin + 100_000)
            stream.write("".join(f"{n * 0.1:.1f},ChatGPT,700,150,850,Conversation log\n" for n in rows))
        stream.write("700000,ChatGPT,-1,150,149,Conversation log\n")
    assert path.stat().st_size > 300_000_000

    words: list[str | Path] = [
        "simulate", "--trace", path, "--policies", ROOT / "deploy/examples/policies.yaml", "--window", "190h..190h1m",
        "--skip-bad", "--json",
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "cli", *words], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        resource.prlimit(process.pid, resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        out, err = process.communicate(timeout=110)
    assert process.returncode == Exit.OK, err
    summary = json.loads(out)
    assert summary["trace"] == {"rows": 600, "failed": 0, "bad": 1, "window": "7d22h..7d22h1m", "rate_scale": 1.0}
    assert summary["requests"]["finished"] == 600
