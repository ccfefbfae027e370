"""A cell that goes wrong answers with its cause, and requests are read once for all settings that are tried on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker.model.errors import TraceError
from broker.model.spec import ModelSpec, PolicySpec
from cli.sweep_cells import CellTask, run_cell
from simulator.simulation import SimulationSettings
from simulator.sweep.cells import Cell, CellFailure, CellResult
from simulator.sweep.inputs import read_input
from tests.support.simulated import ELASTIC, SITE
from tests.unit.sweep.runs import candidate
from traces.blocks import Names, RequestBlock, request_block
from traces.schema import Requests
from traces.sessions import Script


class FakeSource:
    """Requests twice a second, or an error. Counts how often they are read, and writes into ``spoils`` meanwhile."""

    def __init__(
        self, *, raises: Exception | None = None, count: int = 20, apart_s: float = 0.5, spoils: Path | None = None
    ) -> None:
        self.raises = raises
        self.spoils = spoils
        self.count = count
        self.apart_s = apart_s
        self.read = 0

    @property
    def has_sessions(self) -> bool:
        return False

    def requests(self, seed: int, name: str, duration_s: float) -> Requests:
        return Requests(self._make)

    def _make(self) -> Iterator[RequestBlock]:
        self.read += 1
        if self.spoils is not None:
            self.spoils.write_text("something else")
        if self.raises is not None:
            raise self.raises
        if self.count:
            yield request_block(np.arange(self.count) * self.apart_s, np.full(self.count, 50), np.full(self.count, 20))

    def scripts(self, seed: int, name: str, duration_s: float) -> tuple[Iterator[Script], Names]:
        return iter(()), Names("tenants")


def task(source: FakeSource, model: ModelSpec = ELASTIC, seed: int = 1) -> CellTask:
    cell = Cell("key", candidate("rules"), "calm", seed)
    settings = SimulationSettings(tail_s=5.0, start_at=1.7e9, warm_up_s=120.0)
    return CellTask(cell, SITE, (model,), "chat", source, 60.0, settings)


def test_a_run_has_a_worst_hour_where_it_lasts_one_as_in_its_report() -> None:
    short, long = (run_cell(task(FakeSource(apart_s=apart_s))) for apart_s in (0.5, 200.0))
    assert isinstance(short, CellResult)
    assert isinstance(long, CellResult)
    assert (short.figures.worst_hour, short.figures.worst_five_minutes) == (None, None)
    assert long.figures.worst_hour is not None
    assert long.figures.worst_five_minutes is not None


def cause(task: CellTask) -> str:
    answer = run_cell(task)
    assert isinstance(answer, CellFailure)
    return answer.cause


def test_a_cell_has_the_figures_of_its_run() -> None:
    answer = run_cell(task(FakeSource()))
    assert isinstance(answer, CellResult)
    assert answer.figures.arrived == (20.0,)
    assert answer.figures.days == pytest.approx(((9.5 + 5.0) / 86_400,))
    assert answer.figures.gpu_hours[0].total > 0


def test_a_model_that_is_not_asked_costs_a_cell_nothing() -> None:
    alone, beside = task(FakeSource()), task(FakeSource())
    idle = replace(ELASTIC, model_id="embed", minimum=1, maximum=1)
    found = [run_cell(one) for one in (alone, replace(beside, models=(ELASTIC, idle)))]
    first, second = (one.figures for one in found if isinstance(one, CellResult))
    assert second.gpu_hours[0].total == pytest.approx(first.gpu_hours[0].total, rel=0.01)
    assert (first.not_asked, second.not_asked) == ((), ("embed",))


def test_a_cell_costs_no_more_than_its_gpus_for_its_days() -> None:
    """Its warm-up is two minutes, of which a day of fourteen seconds would make a lot."""
    answer = run_cell(task(FakeSource(), replace(ELASTIC, maximum=1)))
    assert isinstance(answer, CellResult)
    assert answer.figures.gpu_hours[0].total <= sum(answer.figures.days) * 24 * 1.05


def test_the_same_cell_leaves_the_same() -> None:
    assert run_cell(task(FakeSource())) == run_cell(task(FakeSource()))


def test_requests_are_read_once_for_one_demand_and_seed() -> None:
    source = FakeSource()
    for model in (ELASTIC, replace(ELASTIC, maximum=2)):
        assert isinstance(run_cell(task(source, model)), CellResult)
    assert source.read == 1
    run_cell(task(source, seed=2))
    assert source.read == 2


def test_a_policy_that_raises_is_told_and_has_no_figures() -> None:
    told = cause(task(FakeSource(), replace(ELASTIC, policy=PolicySpec("nonsense"))))
    assert "no policy is called 'nonsense'" in told


def test_a_trace_without_requests_is_told() -> None:
    assert "no request of calm was sent" in cause(task(FakeSource(count=0)))


def test_a_trace_that_breaks_in_the_middle_is_told() -> None:
    assert cause(task(FakeSource(raises=TraceError("no number", path="a.csv", line=7)))) == "a.csv:7: no number"


def test_what_nobody_foresaw_is_told_with_its_place() -> None:
    told = cause(task(FakeSource(raises=ZeroDivisionError("division by zero"))))
    assert told.startswith("ZeroDivisionError: division by zero (test_sweep_cells.py:")


def test_want_of_memory_says_what_to_do() -> None:
    assert "try fewer --jobs" in cause(task(FakeSource(raises=MemoryError())))


def test_a_clock_that_jumps_is_refused() -> None:
    assert "a run of more than" in cause(task(FakeSource(apart_s=1e10)))


def test_a_cell_whose_file_stays_as_it_was_is_kept(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("what the key was made of")
    answer = run_cell(replace(task(FakeSource()), files=(read_input(tmp_path / "trace.csv"),)))
    assert isinstance(answer, CellResult)


def test_a_file_that_changes_while_the_cell_runs_fails_it(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("what the key was made of")
    told = cause(replace(task(FakeSource(spoils=file)), files=(read_input(file),)))
    assert told == f"{file}: the file changed while the sweep ran; run the sweep again"


def test_a_file_that_was_replaced_or_removed_before_the_cell_fails_it_before_anything_is_read(tmp_path: Path) -> None:
    file, source = tmp_path / "trace.csv", FakeSource()
    file.write_text("one content")
    files = (read_input(file),)
    (tmp_path / "other").write_text("two content")
    (tmp_path / "other").replace(file)
    assert "the file changed while the sweep ran" in cause(replace(task(source), files=files))
    file.unlink()
    assert "the file changed while the sweep ran" in cause(replace(task(source), files=files))
    assert source.read == 0
