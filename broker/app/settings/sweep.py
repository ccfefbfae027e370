"""``sweep.yaml``: the sections of a file that says which runs are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from broker.app.settings.document import Document, read_document
from broker.app.settings.fields import Called, Duration, LocalPath, Name, Section
from broker.app.settings.loading import read_section
from broker.app.settings.policies import SloSettings
from broker.app.settings.scenario import GeneratedLoad, PositiveDuration, ServeGenLoad, TraceLoad
from broker.app.settings.words import Misplaced
from traces.conditions import MetricFaults, faults_of
from traces.shape import WHOLE, Window, parse_window

Share = Annotated[float, Field(gt=0, lt=1)]


_WIDEST = 1e300
"""The difference of two values must still be a number."""
RangeEnd = Annotated[float, Field(ge=-_WIDEST, le=_WIDEST)]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is larger than any number that a file can hold")
    if value is None or isinstance(value, list | dict):
        raise ValueError("is not a plain value; to compare whole sections, give each a policies file of its own")
    return value


Value = Annotated[
    Any,
    BeforeValidator(_plain),
    WithJsonSchema({"type": ["boolean", "number", "string"]}),
    Called("number, duration, text, `true` or `false`"),
]


class Between(Section):
    from_: RangeEnd = Field(description="The least value.")
    to: RangeEnd = Field(description="The greatest value.")
    whole: bool = Field(default=False, description="Rounded to a whole number.")

    @model_validator(mode="after")
    def _order(self) -> Between:
        if self.to <= self.from_:
            raise Misplaced(f"{self.to:g} is not more than from, which is {self.from_:g}", "to")
        return self


class UniformValues(Between):
    """Each value between two is as likely."""

    kind: Literal["uniform"] = Field(description="`uniform`: evenly between two values.")


class LogUniformValues(Between):
    """Each order of magnitude between two values is as likely."""

    kind: Literal["log_uniform"] = Field(description="`log_uniform`: evenly in the logarithm.")

    @model_validator(mode="after")
    def _positive(self) -> LogUniformValues:
        if self.from_ <= 0:
            raise Misplaced(f"{self.from_:g} has no logarithm; it must be more than 0", "from")
        return self


class ChoiceValues(Section):
    """One of these, each as likely."""

    kind: Literal["choice"] = Field(description="`choice`: one of a list.")
    values: list[Value] = Field(min_length=1, description="The values.")


Distribution = Annotated[UniformValues | LogUniformValues | ChoiceValues, Field(discriminator="kind")]


class SweepPolicy(Section):
    """One policies file, and what of it is varied. A path is as errors write it:
    `models.chat.policy.rules[queue].above`, where `[queue]` is the item of that `name` and `[0]` the first. One that
    begins with `run.` is of this file's section `run`."""

    file: LocalPath = Field(description="The policies file.")
    model: str | None = Field(
        default=None, description="Which of its models gets the traces; by default the first. A scenario names its own."
    )
    grid: dict[str, list[Value]] = Field(default={}, description="Paths and the values that each takes in turn.")
    random: dict[str, Distribution] = Field(default={}, description="Paths and what their values are drawn from.")
    samples: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="How many draws, for each combination of the grid."
    )
    draw_seed: int = Field(default=1, description="The seed of these draws.")
    knob: str | None = Field(
        default=None,
        description="The path, one of the grid's or the drawn ones, that makes the policy more or less cautious: cost "
        "is read off along it at equal attainment.",
    )

    @field_validator("grid")
    @classmethod
    def _each_once(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, values in grid.items():
            if not values:
                raise Misplaced("needs at least one value", path)
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise Misplaced(f"{value!r} stands twice", path, index)
        return grid

    @model_validator(mode="after")
    def _together(self) -> SweepPolicy:
        for path in self.random:
            if path in self.grid:
                raise Misplaced("stands in grid too; leave one out", "random", path)
        if self.random and self.samples is None:
            raise Misplaced("missing: how many draws?", "samples")
        if self.samples is not None and not self.random:
            raise Misplaced("counts draws, and nothing is drawn; leave it out, or give random", "samples")
        if self.knob is not None and self.knob not in self.grid and self.knob not in self.random:
            known = ", ".join([*self.grid, *self.random]) or "none"
            raise Misplaced(f"{self.knob!r} is not varied; varied: {known}", "knob")
        return self


class ScenarioDemand(Section):
    """What several models are asked, by clients who may react."""

    kind: Literal["scenario"] = Field(description="`scenario`: a file of its own.")
    path: LocalPath = Field(description="The scenario's file.")


class SweepDemand(Section):
    """What is asked in one run."""

    source: Annotated[GeneratedLoad | TraceLoad | ServeGenLoad | ScenarioDemand, Field(discriminator="kind")] = Field(
        description="Where the requests come from."
    )
    duration_s: PositiveDuration | None = Field(
        default=None, description="How long requests arrive; by default as long as the trace, or its window, lasts."
    )

    @model_validator(mode="after")
    def _ends(self) -> SweepDemand:
        if self.duration_s is None and isinstance(self.source, GeneratedLoad):
            raise Misplaced("missing: generated requests never end", "duration")
        if self.duration_s is not None and isinstance(self.source, ScenarioDemand):
            raise Misplaced("stands in the scenario's file; leave it out", "duration")
        if self.duration_s is not None and isinstance(self.source, GeneratedLoad):
            self.source.require_few(self.duration_s, "duration")
        return self


AnyShare = Annotated[float, Field(ge=0, le=1)]


class RunSettings(Section):
    """Under what the runs take place, as the options of `simulate` say it. To vary one of these, name it in a policy's
    `grid` or `random` as `run.routing`, `run.cached_share` and so on: its values then stand in place of this one."""

    routing: Literal["least-loaded", "round-robin", "prefix-affine"] = Field(
        default="least-loaded", description="How the gateway chooses a replica."
    )
    cached_share: AnyShare = Field(
        default=0.0,
        description="Share of prompt tokens that prefix caches hold, where the trace does not tell who shares.",
    )
    metric_loss: AnyShare | None = Field(
        default=None, description="Share of scrapes and gateway reports that are lost; by default as a scenario says."
    )
    metric_delay_s: Duration | None = Field(
        default=None, description="Median time that they take to the broker; by default as a scenario says."
    )

    @property
    def metrics(self) -> MetricFaults | None:
        """None where nothing is said of them."""
        return faults_of(self.metric_loss, self.metric_delay_s)


RUN = "run."
"""How paths begin that are of the runs and not of a policies file."""


class _WithRun(Section):
    run: RunSettings = RunSettings()


def run_settings(document: Document, varied: Mapping[str, Any]) -> RunSettings:
    """The sweep's own, with the values that stand under these paths. Raises ``ConfigErrors``."""
    data = document.data.get(RUN.removesuffix(".")) or {}
    changed = {**data, **{path.removeprefix(RUN): value for path, value in varied.items()}}
    return read_section(_WithRun, replace(document, data={"run": changed})).run


class Goal(Section):
    """What a policy must keep; those that miss it rank below all that keep it."""

    attainment: Share = Field(default=0.99, description="Share of all arrivals that are in time.")
    worst_hour: Share = Field(
        default=0.95, description="The same within the worst hour; not judged where no run lasts an hour."
    )


class ResamplingSettings(Section):
    """How intervals are made."""

    blocks: Literal["auto", "shared", "own", "seeds"] = Field(
        default="auto",
        description="What is resampled: `shared` days over all seeds, each seed's `own` days, or whole `seeds`; "
        "`auto` takes own where requests are generated, shared where a recorded trace is replayed for days, and seeds "
        "where it is replayed for a day and the seeds gave runs that differ.",
    )
    level: Share = Field(default=0.95, description="The intervals' level.")
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = Field(default=4000, description="How many resamples.")
    seed: int = Field(default=1, description="The seed of the resampling.")


class SweepSettings(Section):
    """The whole of `sweep.yaml`. Every combination of a policy, its values, a trace and a seed is one cell."""

    site: LocalPath | None = Field(default=None, description="The site file; by default one pool with room for all.")
    cluster: LocalPath | None = Field(
        default=None, description="The Slurm cluster that the site's `slurm` pools are simulated on."
    )
    policies: dict[Name, SweepPolicy] = Field(min_length=1, description="The policies by the name that tables give.")
    traces: dict[Name, SweepDemand] = Field(default={}, description="What each is run on, where nothing is held out.")
    tune: dict[Name, SweepDemand] = Field(default={}, description="What the ranking is made of, and nothing else.")
    report: dict[Name, SweepDemand] = Field(
        default={}, description="What is shown beside it, and has no part in the ranking."
    )
    seeds: list[int] = Field(default=[1], min_length=1, description="One run for each; the same for all policies.")
    tail_s: Annotated[Duration, Field(le=30 * 86_400.0)] = Field(
        default=60.0, description="How long a run goes on after the last arrival."
    )
    warm_up_s: Annotated[Duration, Field(le=30 * 86_400.0)] | None = Field(
        default=None,
        description="How long the first replicas have before the load; by default longer than the slowest start of all "
        "models that are tried.",
    )
    run: RunSettings = Field(default=RunSettings(), description="Under what the runs take place.")
    cell_time_limit_s: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="How long one run may take by the clock; one that takes longer has failed, and the others go on. "
        "The first of each process has the process's own start in it.",
    )
    slo: SloSettings | None = Field(
        default=None,
        description="When a request is in time; by default as the policies files say, which must then agree.",
    )
    goal: Goal = Field(default=Goal(), description="What a policy must keep.")
    resampling: ResamplingSettings = Field(default=ResamplingSettings(), description="How intervals are made.")

    @model_validator(mode="after")
    def _together(self) -> SweepSettings:
        if bool(self.traces) == bool(self.tune):
            raise Misplaced("give either traces, or tune (and report)", "traces" if self.traces else "tune")
        if self.report and not self.tune:
            raise Misplaced("is what was held out from tune; without one there is only traces", "report")
        if len(set(self.seeds)) < len(self.seeds):
            raise Misplaced("a seed stands twice", "seeds")
        self._refuse_seen()
        return self

    def _refuse_seen(self) -> None:
        """A trace is tuned on or reported on, never both."""
        for name, held_out in self.report.items():
            if name in self.tune:
                raise Misplaced("stands in tune too; give it a name of its own", "report", name)
            for seen_name, seen in self.tune.items():
                if overlap(seen, held_out):
                    raise Misplaced(
                        f"is tuned on as tune.{seen_name}; name another trace, or another window", "report", name
                    )


def overlap(one: SweepDemand, other: SweepDemand) -> bool:
    """Whether both replay the same requests of the same file."""
    if not (isinstance(one.source, TraceLoad) and isinstance(other.source, TraceLoad)):
        return False
    if one.source.path.resolve() != other.source.path.resolve():
        return False
    begin, end = _span(one.source, one.duration_s)
    other_begin, other_end = _span(other.source, other.duration_s)
    return begin < other_end and other_begin < end


def _span(load: TraceLoad, duration_s: float | None) -> tuple[float, float]:
    window = window_of(load)
    return window.start_s, min(window.end_s, window.start_s + (duration_s or float("inf")))


def window_of(load: TraceLoad) -> Window:
    """The part that is replayed."""
    return parse_window(load.window) if load.window is not None else WHOLE


def read_sweep(path: Path) -> tuple[SweepSettings, Document]:
    """``sweep.yaml``, and the document for errors that are found later. Raises ``ConfigErrors``."""
    document = read_document(path)
    return read_section(SweepSettings, document), document
