"""What was tried on `tidegate simulate` with bad intent, and mended."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cli.output import Exit
from cli.replayed import gap_note, nothing_served
from tests.support.command_line import ROOT, start, tidegate
from tests.support.simulated import SmallRun
from tests.support.world import World, model_spec
from traces.counts import count_window
from traces.readers import open_trace
from traces.shape import parse_window

POLICIES = ROOT / "deploy" / "examples" / "policies.yaml"
HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def trace(folder: Path, *seconds: float) -> Path:
    path = folder / "trace.csv"
    path.write_text(HEADER + "".join(f"{at},ChatGPT,50,10,60,Conversation log\n" for at in seconds))
    return path


def test_a_file_without_an_end_is_no_run_to_stand_beside(tmp_path: Path) -> None:
    """`--against /dev/zero` filled the memory."""
    result = tidegate("simulate", "--trace", trace(tmp_path, 0), "--policies", POLICIES, "--against", "/dev/zero")
    assert result.exit_code == Exit.USAGE
    assert "it is larger than 256 MiB" in " ".join(result.output.split())


@pytest.mark.integration
def test_a_full_disk_behind_standard_error_stops_nothing(tmp_path: Path) -> None:
    """The run was done and its summary never printed."""
    full = os.open("/dev/full", os.O_WRONLY)
    words: list[str | Path] = ["simulate", "--trace", trace(tmp_path, 0, 1), "--policies", POLICIES, "--json"]
    try:
        with start(*words, folder=tmp_path, errors=full) as process:
            out, _ = process.communicate(timeout=90)
    finally:
        os.close(full)
    assert process.returncode == Exit.OK
    assert json.loads(out)["requests"]["finished"] == 2


def test_a_model_that_fits_no_pool_is_told_with_what_it_needs() -> None:
    """All that was said was that no request was served."""
    world = World(models=(model_spec(gpus=16),)).begin()
    summary = replace(SmallRun().run([]), decisions=(world.decision(),))
    assert nothing_served(summary) == (
        "no request was served: chat has no replica (local has 8 of 8 GPUs left where a replica needs 16)"
    )


NEVER = """\
models:
  chat:
    engine: {command: [serve]}
    min: 0
    max: 1
    policy: {kind: schedule, time_zone: UTC, default: {floor: 0, ceiling: 0}}
"""


def test_a_run_that_served_nobody_has_its_report(tmp_path: Path) -> None:
    """Quantiles of nothing ended it in a traceback, after all the work."""
    (tmp_path / "never.yaml").write_text(NEVER)
    policies, out = tmp_path / "never.yaml", tmp_path / "report"
    result = tidegate("simulate", "--trace", trace(tmp_path, 0, 1), "--policies", policies, "--tail", "1", "--out", out)
    assert (result.exit_code, "no request was served" in result.stderr) == (Exit.FAILED, True), result.output
    latencies = json.loads((out / "report.json").read_text())["data"]["latencies"]
    assert {(row["latency"]["count"], len(row["intervals"])) for row in latencies} == {(0, 0)}


def test_a_long_gap_is_told(tmp_path: Path) -> None:
    """Two months of nothing were simulated for hours, without a word."""
    path = trace(tmp_path, 0, 60, 60 + 3 * 86_400, 70 + 3 * 86_400)
    part = count_window(open_trace(path), parse_window(".."))
    assert (part.longest_gap_s, part.longest_gap_at_s) == (3 * 86_400, 60)
    told = "nothing arrives for 3d from 1m of the trace on, which is simulated too; --window leaves it out"
    assert gap_note(part) == told
    assert gap_note(count_window(open_trace(path), parse_window("..1h"))) is None
