"""A real `tidegate simulate`, ended early: a valid report of what there is, and status 130."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.output import Exit
from tests.support.command_line import ROOT, start
from tests.support.waiting import until

pytestmark = pytest.mark.integration

POLICIES = ROOT / "deploy" / "examples" / "policies.yaml"
HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
PATIENCE_S = 90.0


def trace(folder: Path, rows: int) -> Path:
    """So busy that the run takes minutes."""
    path = folder / "trace.csv"
    with path.open("w") as stream:
        stream.write(HEADER)
        for begin in range(0, rows, 100_000):
            many = range(begin, min(begin + 100_000, rows))
            stream.write("".join(f"{n * 0.02:.2f},ChatGPT,700,150,850,Conversation log\n" for n in many))
    return path


def reads(process: psutil.Process, path: Path) -> bool:
    return str(path) in {file.path for file in process.open_files()}


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[dict[str, Any], str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == Exit.INTERRUPTED, err
    assert "Traceback" not in err
    summary: dict[str, Any] = json.loads(out)
    return summary, err


def simulate(folder: Path, path: Path, **environment: str) -> subprocess.Popen[str]:
    words: list[str | Path] = ["simulate", "--trace", path, "--policies", POLICIES, "--json"]
    return start(*words, folder=folder, environment=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_in_the_run_the_report_is_of_what_was_simulated(number: signal.Signals, tmp_path: Path) -> None:
    with simulate(tmp_path, trace(tmp_path, 400_000)) as process:
        assert process.stderr is not None
        for line in process.stderr:  # told every ten seconds
            if "simulating:" in line:
                break
        summary, err = ended(process, number)
    partial = summary["partial"]
    assert partial["doing"] == "simulating"
    assert 0 < partial["reached_s"] == summary["duration_s"] < partial["span_s"] == pytest.approx(7999.98)
    counts = summary["requests"]
    assert counts["finished"] > 0
    assert (
        counts["finished"] + counts["unfinished"] == counts["sent"] == pytest.approx(partial["reached_s"] * 50, abs=2)
    )
    assert "interrupted: ended at" in err


def test_while_the_trace_is_read(tmp_path: Path) -> None:
    path = trace(tmp_path, 6_000_000)
    with simulate(tmp_path, path) as process:
        known = psutil.Process(process.pid)
        until(
            lambda: str(path) in {file.path for file in known.open_files()}, "the trace is read", PATIENCE_S, by=process
        )
        summary, _ = ended(process, signal.SIGINT)
    assert summary["partial"] == {"doing": "reading the files", "reached_s": 0.0, "span_s": None}
    assert summary["requests"]["sent"] == 0


def test_while_the_engine_is_compiled(tmp_path: Path) -> None:
    """Compiling takes some 20 s of processor time, and what comes before it not 5."""
    (tmp_path / "numba").mkdir()
    with simulate(tmp_path, trace(tmp_path, 10), NUMBA_CACHE_DIR=str(tmp_path / "numba")) as process:
        known = psutil.Process(process.pid)
        until(lambda: known.cpu_times().user > 6.0, "the engine is compiled", PATIENCE_S, by=process)
        summary, err = ended(process, signal.SIGINT)
    assert summary["partial"]["doing"] == "preparing the engine"
    assert "nothing was replayed" in err


def test_the_second_ends_it_at_once(tmp_path: Path) -> None:
    """In whatever it is by then: there is no report, or a whole one."""
    with simulate(tmp_path, trace(tmp_path, 2_000_000)) as process:
        known = psutil.Process(process.pid)
        until(lambda: known.cpu_times().user > 1.0, "it has begun", PATIENCE_S, by=process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == Exit.INTERRUPTED
    assert "Traceback" not in err
    assert not out or json.loads(out)["partial"]
