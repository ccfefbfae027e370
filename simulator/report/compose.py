"""From a run to its ``RunReport``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from broker.model.errors import ConfigError
from broker.model.units import format_duration
from simulator.engine.profile import EngineProfile
from simulator.profiles.document import load_profile
from simulator.profiles.profile import COEFFICIENTS, Profile, Range, WorkloadRange, extrapolations
from simulator.report.document import (
    CoefficientUsed,
    ConditionsUsed,
    FileUsed,
    ModelUsed,
    Oracle,
    ProfileUsed,
    RunDescription,
    RunReport,
    TraceUsed,
)
from simulator.report.facts import Facts
from simulator.report.figures import Figures
from simulator.report.series import grid_for, series_of
from simulator.report.summary import OUTCOMES, RequestCounts
from simulator.report.told import decision_rows, shown
from simulator.simulation import SimulationSettings
from traces.conditions import PERFECT


@dataclass(frozen=True, slots=True)
class Source:
    """What the run itself does not know: its files, its seed, who ran it."""

    version: str
    seed: int
    dated: bool = False
    policies: FileUsed | None = None
    site: FileUsed | None = None
    trace: TraceUsed | None = None
    scenario: FileUsed | None = None
    cluster_file: FileUsed | None = None
    ended_early: str = ""


def compose(facts: Facts, source: Source, *, oracle: Oracle | None = None) -> RunReport:
    """All figures, series and words of a run. ``oracle`` is found apart."""
    profiles = {model_id: _profile_used(facts, model_id) for model_id in facts.asked}
    outside = frozenset(model_id for model_id, used in profiles.items() if used is not None and used.extrapolated)
    figures = Figures(facts, source.seed, extrapolated=outside)
    rows = decision_rows(facts.decisions, facts.started_at)
    decisions, counts = shown(rows, len(facts.decisions))
    grid = grid_for(facts)
    report = RunReport(
        run=_described(facts, source, [used for used in profiles.values() if used is not None]),
        requests=_counts(facts),
        figures=figures.all(),
        attainment=figures.attainment(),
        latencies=figures.latencies(),
        gpu_hours=figures.gpu_hours(),
        grid=grid,
        series=series_of(facts, grid),
        decision_counts=counts,
        decisions=decisions,
        oracle=oracle or Oracle(left_out="not asked for", clairvoyant_left_out="not asked for"),
        queues=facts.queues,
        batch=facts.batch,
        cuts=facts.cuts,
        problems=facts.problems,
    )
    return replace(report, notes=tuple(_notes(report, facts)))


def _described(facts: Facts, source: Source, profiles: Sequence[ProfileUsed]) -> RunDescription:
    asked = np.bincount(facts.outcomes.model, minlength=len(facts.models))
    unique = {used.name: used for used in profiles}
    return RunDescription(
        version=source.version,
        seed=source.seed,
        started_at=facts.started_at,
        dated=source.dated,
        duration_s=facts.duration_s,
        warm_up_s=-facts.recorded.begin_s,
        cluster=facts.recorded.site.cluster,
        policies=source.policies,
        site=source.site,
        trace=source.trace,
        scenario=source.scenario,
        cluster_file=source.cluster_file,
        models=tuple(
            ModelUsed(
                model.model_id, model.policy.kind,
                json.dumps(model.policy.parameters, sort_keys=True), model.pools, model.gpus, model.minimum,
                model.maximum, model.engine.profile or "demo", model.slo,
                int(asked[facts.models.index(model.model_id)]) if model.model_id in facts.models else 0,
            )
            for model in facts.recorded.models
        ),
        profiles=tuple(unique.values()),
        ended_early=source.ended_early,
        conditions=_conditions(facts.recorded.settings),
    )  # fmt: skip


def _conditions(settings: SimulationSettings | None) -> ConditionsUsed | None:
    if settings is None:
        return None
    return ConditionsUsed(
        settings.routing.value, settings.cached_share, settings.metrics or PERFECT, settings.scrape_interval_s,
        settings.summary_interval_s, settings.tail_s,
    )  # fmt: skip


def _counts(facts: Facts) -> RequestCounts:
    counts = np.bincount(facts.outcomes.status, minlength=len(OUTCOMES)).tolist()
    by_outcome = {outcome.value: counts[code] for code, outcome in enumerate(OUTCOMES)}
    return RequestCounts(sent=len(facts.outcomes), **by_outcome)


# -- the engine's profile


def _profile_used(facts: Facts, model_id: str) -> ProfileUsed | None:
    """None for a model of which no replica was ever started."""
    engine = facts.recorded.profiles.get(model_id)
    if engine is None:
        return None
    profile = _named(facts.spec(model_id).engine.profile or "demo", engine)
    if profile is None:
        numbers = ((name, float(getattr(engine, name))) for name in COEFFICIENTS)
        given = tuple(CoefficientUsed(name, value, "given", engine.provenance) for name, value in numbers)
        return ProfileUsed(engine.name, "", "", 1, engine.provenance, given, ())
    coefficients = tuple(
        CoefficientUsed(name, value.value, value.method.value, value.source)
        for name, value in profile.coefficients.items()
    )
    beyond = tuple(str(one) for one in extrapolations(profile, _workload(facts, model_id)))
    return ProfileUsed(
        profile.name, profile.hardware, profile.model, profile.tensor_parallel, profile.summary, coefficients, beyond
    )


def _named(name: str, engine: EngineProfile) -> Profile | None:
    """The profile of that name, if it is the one that ran: a library's caller may have given another."""
    try:
        profile = load_profile(name)
    except ConfigError:
        return None
    return profile if profile.engine == engine else None


def _workload(facts: Facts, model_id: str) -> WorkloadRange:
    """What the engines were asked: nothing of it was cached."""
    rows = facts.rows_of(model_id)
    out = facts.outcomes
    lengths = {
        "prompt_tokens": out.prompt_tokens[rows],
        "output_tokens": out.answer_tokens[rows],
    }
    return WorkloadRange(**{name: Range(float(column.min()), float(column.max())) for name, column in lengths.items()})


# -- words


def _notes(report: RunReport, facts: Facts) -> list[str]:
    """Of the run itself first, as the terminal told them; then what follows from its document."""
    run, notes = report.run, []
    if run.ended_early:
        notes.append(f"This is a part of the run: {run.ended_early}.")
    notes += [f"{words}." for words in facts.notes]
    if facts.drained_s >= 1:
        ran_on = format_duration(round(facts.drained_s))
        notes.append(f"Requests were still open when load and tail had ended: the run went on for {ran_on}.")
    made_up = [used.name for used in run.profiles if any(one.method == "chosen" for one in used.coefficients)]
    if made_up:
        notes.append(
            f"The engine profile {', '.join(made_up)} is chosen, not measured: times and GPU-hours are of a made-up "
            "engine, and differences between policies say more than either policy's figures."
        )
    for used in run.profiles:
        notes += [f"{used.name}: {words}." for words in used.extrapolated]
    if not run.dated:
        notes.append("The load has no date: second 0 was placed on an arbitrary one, which schedules go by.")
    blocks = max((figure.interval.blocks for figure in report.figures), default=1)
    if blocks < 2:
        notes.append(
            "The run is of one day block: nothing is known of the spread between days, so that no figure has an "
            "interval."
        )
    if report.requests.sent != report.requests.finished:
        missed = report.requests.sent - report.requests.finished
        notes.append(f"{missed:,} of {report.requests.sent:,} requests were not answered in full and count as misses.")
    if report.decision_counts.shown < report.decision_counts.rows:
        left = report.decision_counts.rows - report.decision_counts.shown
        notes.append(f"{left:,} rows of decisions are left out here; decisions.parquet has all.")
    return notes
