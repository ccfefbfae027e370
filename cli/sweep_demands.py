"""What the runs of a sweep are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from broker.app.settings.document import Document
from broker.app.settings.scenario import TraceLoad, load_scenario
from broker.app.settings.sweep import ScenarioDemand, SweepDemand, SweepSettings, window_of
from broker.model.errors import ConfigErrors, TidegateError
from cli.replayed import skipped_rows_notes, sources_of
from cli.sweep_keys import Inputs
from simulator.simulation import SimulationSettings
from simulator.sweep.cells import cell_key
from simulator.sweep.document import DemandUsed
from simulator.sweep.inputs import InputFile
from traces.readers import open_trace
from traces.scenario import Scenario, Source, TraceSource


@dataclass(frozen=True, slots=True)
class SweptDemand:
    """``cause``: why it cannot be asked. ``start_at``: its second 0 as epoch seconds. ``files`` are those it reads.
    ``notes``: what is to be known of the figures of every run of it."""

    used: DemandUsed
    load: Source | Scenario
    duration_s: float
    start_at: float
    cause: str = ""
    files: tuple[InputFile, ...] = ()
    notes: tuple[str, ...] = ()


def sides(settings: SweepSettings) -> Iterator[tuple[str, str, SweepDemand]]:
    for side, demands in (("all", settings.traces), ("tune", settings.tune), ("report", settings.report)):
        for name, demand in demands.items():
            yield side, name, demand


def refuse_seen(demands: Sequence[SweptDemand], inputs: Inputs, document: Document) -> None:
    """A trace is tuned on or reported on, never both, under whatever names its file lies. The settings know paths only.

    Raises ``ConfigErrors``.
    """
    tuned = [one for one in demands if one.used.side == "tune"]
    for held_out, seen in product((one for one in demands if one.used.side == "report"), tuned):
        spans = product(_replayed(held_out, inputs), _replayed(seen, inputs))
        if any(
            one == other and max(begin, first) < min(end, last) for (one, begin, end), (other, first, last) in spans
        ):
            words = f"replays what is tuned on as tune.{seen.used.name}; name another trace, or another window"
            raise ConfigErrors([document.problem(("report", held_out.used.name), words)])


def _replayed(demand: SweptDemand, inputs: Inputs) -> list[tuple[str, float, float]]:
    """Digest and window, in seconds, of each recorded trace."""
    load = demand.load
    length_s = load.duration_s if isinstance(load, Scenario) else demand.duration_s
    return [
        (inputs.file(source.path).digest, begin, min(source.window.end_s, begin + length_s))
        for source in sources_of(load)
        if isinstance(source, TraceSource)
        for begin in [source.window.start_s]
    ]


def demand_of(side: str, name: str, demand: SweepDemand, inputs: Inputs) -> SweptDemand:
    """A file that cannot be read fails the cells that need it, and no others."""
    recorded, kind = isinstance(demand.source, TraceLoad), demand.source.kind
    duration_s = demand.duration_s if demand.duration_s is not None else float("inf")
    try:
        load = _load(demand)
        digest = cell_key({"name": name, "load": inputs.plain(load), "duration_s": duration_s})
        start_at = load.start_at if isinstance(load, Scenario) else _start_at(demand)
        notes = tuple(skipped_rows_notes(load))
    except TidegateError as error:
        used = DemandUsed(name, side, kind, cell_key({"name": name}), recorded)
        return SweptDemand(used, Scenario(0.0, ()), duration_s, 0.0, str(error))
    used = DemandUsed(name, side, kind, digest, recorded)
    begins_at = SimulationSettings().start_at if start_at is None else start_at
    return SweptDemand(used, load, duration_s, begins_at, files=inputs.files_of(load), notes=notes)


def _load(demand: SweepDemand) -> Source | Scenario:
    if isinstance(demand.source, ScenarioDemand):
        return load_scenario(demand.source.path)
    return demand.source.to_source()


def _start_at(demand: SweepDemand) -> float | None:
    """Schedules see the trace's own date where it has one."""
    if not isinstance(demand.source, TraceLoad):
        return None
    default = SimulationSettings().start_at
    reader = open_trace(demand.source.path, skip_bad=demand.source.skip_bad)
    for _ in reader.blocks():
        break
    began_at = reader.statistics.began_at or 0.0
    return (began_at if began_at > 1e8 else default) + window_of(demand.source).start_s
