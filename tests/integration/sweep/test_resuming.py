"""A sweep that was stopped, however rudely, goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.profiles.document import CATALOGUE
from tests.support.command_line import run, start
from tests.support.sweeps import CELLS, ONE_CELL, SWEEP, small_sweep, with_profile
from tests.support.waiting import until

pytestmark = pytest.mark.integration

FILES = ("sweep.json", "ranking.csv", "cells.csv")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    status, _, errors = run("sweep", small_sweep(folder), "--out", folder / "out", "--jobs", "2", folder=folder)
    assert status == 0, errors
    return folder / "out"


def cells(out: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each result."""
    found = (out / "cells").glob("*.json")
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def wait_for_cells(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    until(lambda: len(list((out / "cells").glob("*.json"))) >= count, f"{count} cells have ended", 60.0, by=process)


def children(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from children(child)


def wait_until_gone(processes: list[int]) -> None:
    until(lambda: not any(map(lives, processes)), "the workers end with their sweep", 20.0)


def lives(process: int) -> bool:
    """A process that ended and that nobody has waited for has no command line any more."""
    command = Path(f"/proc/{process}/cmdline")
    return command.exists() and bool(command.read_bytes())


def test_a_sweep_that_was_killed_goes_on_and_ends_in_the_same_bytes(unbroken: Path, tmp_path: Path) -> None:
    file, out = small_sweep(tmp_path), tmp_path / "out"
    with start("sweep", file, "--out", out, "--jobs", "2", folder=tmp_path) as process:
        wait_for_cells(out, 2, process)
        workers = list(children(process.pid))
        process.kill()
        process.communicate()
    wait_until_gone(workers)
    done = cells(out)
    assert 2 <= len(done) < CELLS
    assert not (out / "sweep.json").exists()

    status, _, errors = run("sweep", file, "--out", out, "--jobs", "2", folder=tmp_path)
    assert status == 0, errors
    assert f"{len(done)} of them done before; {CELLS - len(done)} to run" in errors
    assert done.items() <= cells(out).items(), "what was done is not run again"
    for name in FILES:
        assert (out / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_ctrl_c_and_its_like_keep_what_is_done_and_say_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    file, out = small_sweep(tmp_path), tmp_path / "out"
    with start("sweep", file, "--out", out, "--jobs", "2", folder=tmp_path) as process:
        wait_for_cells(out, 1, process)
        workers = list(children(process.pid))
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    wait_until_gone(workers)
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert 1 <= len(cells(out)) < CELLS


def test_a_second_sweep_in_the_folder_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    many = SWEEP.replace("seeds: [1, 2]", f"seeds: {list(range(1, 1001))}")
    file, out = small_sweep(tmp_path, many), tmp_path / "out"
    with start("sweep", file, "--out", out, "--jobs", "1", folder=tmp_path) as process:
        wait_for_cells(out, 1, process)
        status, _, errors = run("sweep", file, "--out", out, folder=tmp_path)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert status == 2
    assert f"a sweep is at work here: process {process.pid}" in errors
    assert "--out" in errors


def test_a_worker_that_the_kernel_kills_costs_its_cell_and_no_more(tmp_path: Path) -> None:
    file, out = small_sweep(tmp_path), tmp_path / "out"
    with start("sweep", file, "--out", out, "--jobs", "1", "--json", folder=tmp_path) as process:
        wait_for_cells(out, 1, process)
        worker = max(children(process.pid))
        os.kill(worker, signal.SIGKILL)
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    found = json.loads(told)
    assert (len(found["cells"]), len(found["failed"])) == (CELLS - 1, 1)
    assert "was killed (SIGKILL)" in found["failed"][0]["cause"]
    assert "1 of 8 cells failed" in errors

    status, _, errors = run("sweep", file, "--out", out, folder=tmp_path)
    assert status == 0, errors
    assert "7 of them done before; 1 to run" in errors


def test_nothing_is_run_again_for_a_finished_sweep(unbroken: Path) -> None:
    before = cells(unbroken)
    status, told, errors = run("sweep", unbroken.parent / "sweep.yaml", "--out", unbroken, folder=unbroken.parent)
    assert status == 0
    assert "8 of them done before; 0 to run" in errors
    assert "n = 2 seeds (1, 2)" in told
    assert cells(unbroken) == before


def test_changed_settings_are_run_anew_and_the_old_results_left_alone(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = small_sweep(tmp_path)
    status, _, _ = run("sweep", file, "--out", out, "--jobs", "2", folder=tmp_path)
    assert status == 0
    file.write_text(file.read_text().replace("[1s, 4s]", "[1s]").replace("tail: 0s", "tail: 1s"))
    status, _, errors = run("sweep", file, "--out", out, "--jobs", "2", folder=tmp_path)
    assert status == 0
    assert "4 cells; 4 to run" in errors
    assert "8 results of other settings" in errors


def test_a_changed_engine_profile_makes_other_cells(tmp_path: Path) -> None:
    """Its path stays the same."""
    profile = tmp_path / "engine.yaml"
    profile.write_text((CATALOGUE / "demo.yaml").read_text())
    file, out = small_sweep(tmp_path, ONE_CELL, with_profile("./engine.yaml")), tmp_path / "out"
    status, _, errors = run("sweep", file, "--out", out, "--jobs", "1", folder=tmp_path)
    assert status == 0, errors
    profile.write_text(profile.read_text() + "# another word\n")
    status, _, errors = run("sweep", file, "--out", out, "--jobs", "1", folder=tmp_path)
    assert status == 0, errors
    assert "1 cell; 1 to run" in errors
    assert "1 result of other settings" in errors


def test_a_profile_that_is_not_there_fails_its_cells(tmp_path: Path) -> None:
    file = small_sweep(tmp_path, ONE_CELL, with_profile("./none.yaml"))
    status, told, errors = run("sweep", file, "--out", tmp_path / "out", "--jobs", "1", folder=tmp_path)
    assert status == 1
    assert "none.yaml: cannot be read: No such file or directory" in told + errors
