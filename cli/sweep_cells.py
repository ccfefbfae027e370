"""One cell of a sweep in a process of its own: what it is given, and what it answers. Nothing here knows the sweep."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace

from broker.app.steadiness import steady_steps
from broker.model.errors import ConfigError, TidegateError, TraceError
from broker.model.spec import ModelSpec, SiteSpec
from broker.model.units import format_duration
from cli.clusters import bad_rows_notes
from cli.placing import require_room
from cli.replayed import nothing_served
from simulator.cluster.plan import ClusterPlan
from simulator.run import run
from simulator.simulation import SimulationSettings
from simulator.sweep.cells import Cell, CellFailure, CellResult
from simulator.sweep.figures import RunFigures, run_figures
from simulator.sweep.inputs import InputFile
from traces.blocks import RequestBlock
from traces.describe import LONGEST_SPAN_S
from traces.scenario import Scenario, Source
from traces.schema import Requests

KEPT_ROWS = 2_000_000
"""Of a demand that a process keeps for its next cell: a hundred megabytes."""


@dataclass(frozen=True, slots=True)
class CellTask:
    """``model_id`` gets a ``load`` that is no scenario, for ``duration_s`` at most. ``files`` are all that the run
    reads, ``notes`` what is known of its figures beforehand."""

    cell: Cell
    site: SiteSpec
    models: tuple[ModelSpec, ...]
    model_id: str
    load: Source | Scenario
    duration_s: float
    settings: SimulationSettings
    cluster: ClusterPlan | None = None
    files: tuple[InputFile, ...] = ()
    notes: tuple[str, ...] = ()

    def require_runnable(self) -> None:
        """Raises ``ConfigError`` where a model that is asked is not there, or no pool could ever hold a replica of it."""
        known = {model.model_id: model for model in self.models}
        for model_id in self.load.models if isinstance(self.load, Scenario) else (self.model_id,):
            if model_id not in known:
                raise ConfigError(f"{self.cell.demand} asks {model_id}; the policies have {', '.join(known)}")
            require_room(known[model_id], self.site)


def run_cell(task: CellTask) -> CellResult | CellFailure:
    """Whatever goes wrong is the answer: the other cells go on."""
    try:
        _require_unchanged(task)  # and after the run, since it may have changed meanwhile
        figures = _figures(task)
        _require_unchanged(task)
        return CellResult(task.cell, figures)
    except TidegateError as error:
        return CellFailure(task.cell, str(error))
    except MemoryError:
        return CellFailure(task.cell, "out of memory; try fewer --jobs, or a window of the trace")
    except Exception as error:  # a policy may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}, in {frame.name}"
        return CellFailure(task.cell, f"{type(error).__name__}: {error} ({where})")


def _figures(task: CellTask) -> RunFigures:
    load = _kept.load(task)
    with steady_steps():
        report = run(
            task.site, task.models, load, seed=task.cell.seed, model_id=task.model_id, settings=task.settings,
            cluster=task.cluster,
        )  # fmt: skip
    if not report.summary.requests.sent:
        raise TraceError(f"no request of {task.cell.demand} was sent; its window, or its file, holds none")
    if not report.summary.requests.finished:
        raise ConfigError(nothing_served(report.summary))
    if report.summary.problems:  # a policy that raised: its figures say nothing of what it was meant to do
        raise ConfigError("; ".join(report.summary.problems))
    notes = [*task.notes, *report.summary.notes, *_cluster_notes(task, report.summary.duration_s)]
    return run_figures(report.facts, replace(report.summary, notes=tuple(notes)), tail_s=task.settings.tail_s)


def _cluster_notes(task: CellTask, duration_s: float) -> Iterator[str]:
    if task.cluster is not None:
        yield from bad_rows_notes(task.cluster, task.cluster.lead_s + task.settings.warm_up_s + duration_s)


def _require_unchanged(task: CellTask) -> None:
    """The cell's key holds the files' digests: a run that read something else must not be kept under it."""
    for file in task.files:
        file.require_unchanged()


class _KeptDemand:
    """The requests of the last demand and seed: cells come in that order, and reading a trace takes as long as
    simulating a part of it."""

    def __init__(self) -> None:
        self._key: tuple[Source, int] | None = None
        self._kept: Requests | None = None

    def load(self, task: CellTask) -> Requests | Scenario:
        if isinstance(task.load, Scenario):  # its clients react to each run
            return task.load
        key = (task.load, task.cell.seed)
        if self._kept is None or key != self._key:
            self._kept = None  # before the next one is read: only one of them is ever in memory
            found = task.load.requests(task.cell.seed, task.cell.demand, task.duration_s)
            self._kept, self._key = _in_memory(found), key
        return self._kept


def _in_memory(requests: Requests) -> Requests:
    """The requests as blocks that need not be read again; those that are too many are read each time."""
    blocks: list[RequestBlock] = []
    rows = 0
    for block in _checked(requests):
        rows += len(block)
        if rows > KEPT_ROWS:
            return requests.derived(lambda: _checked(requests))
        blocks.append(block)
    return requests.derived(lambda: iter(blocks))


def _checked(requests: Requests) -> Iterator[RequestBlock]:
    for block in requests.blocks():
        if len(block) and block.arrival_s[-1] > LONGEST_SPAN_S:
            raise TraceError(
                f"a request comes {format_duration(float(block.arrival_s[-1]))} after the first; a run of more than "
                f"{format_duration(LONGEST_SPAN_S)} is hardly meant: take a window, or look for a clock that jumps"
            )
        yield block


_kept = _KeptDemand()
