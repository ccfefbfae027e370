"""``scenario.yaml``: the sections of a file that says what several models are asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from broker.app.settings.document import read_document
from broker.app.settings.fields import Date, Duration, LocalPath, Name, Section
from broker.app.settings.loading import read_section
from broker.app.settings.words import Misplaced
from broker.model.errors import ConfigError
from broker.model.units import format_duration
from traces.clients import ClientRules
from traces.conditions import PERFECT, MetricFaults
from traces.describe import LONGEST_SPAN_S
from traces.generate import LoadProfile, scale_tokens
from traces.lengths import lognormal_quantiles
from traces.options import LARGEST_RATE_SCALE, RequestKind, ScaleMethod
from traces.profiles import load_profile, read_profile
from traces.rates import RateCurve
from traces.scenario import GeneratedSource, Load, Scenario, ServeGenSource, Source, TraceSource
from traces.sessions import SessionShape
from traces.shape import WHOLE, Window, parse_window

_RULES = ClientRules()

Share = Annotated[float, Field(ge=0, le=1)]
LARGEST_RATE = 100_000.0
"""Requests per second of one load. A slip of the keyboard must not ask for more than any machine can hold."""
LARGEST_TOKEN_SCALE = 1000.0
MOST_TOKENS = 10_000_000
MOST_REQUESTS = 1e9
"""Of one generated load: their outcomes take some hundred gigabytes."""

Positive = Annotated[float, Field(gt=0)]
PositiveDuration = Annotated[Duration, Field(gt=0, le=LONGEST_SPAN_S)]
Rate = Annotated[float, Field(gt=0, le=LARGEST_RATE)]
RateScale = Annotated[float, Field(gt=0, le=LARGEST_RATE_SCALE)]
TokenScale = Annotated[float, Field(gt=0, le=LARGEST_TOKEN_SCALE)]


class RatePoint(Section):
    """One point of a rate curve; the rate goes straight from one to the next."""

    at_s: Annotated[Duration, Field(le=LONGEST_SPAN_S)] = Field(description="When, from the start.")
    rate: Annotated[float, Field(ge=0, le=LARGEST_RATE)] = Field(description="Requests per second.")


class SessionSettings(Section):
    """Conversations: each further prompt repeats all that was said, which an engine may still have."""

    turns: Annotated[float, Field(ge=1, le=10_000)] = Field(description="Mean requests of a session.")
    pause_s: PositiveDuration = Field(default=30.0, description="Median time from an answer to the next prompt.")
    pause_sigma: Annotated[float, Field(ge=0, le=5)] = Field(default=1.0, description="Spread of pauses.")
    added_tokens: Annotated[float, Field(ge=1, le=MOST_TOKENS)] = Field(
        default=60, description="Median tokens of a further question."
    )
    added_sigma: Annotated[float, Field(ge=0, le=5)] = Field(default=1.0, description="Spread of those tokens.")
    longest_tokens: Annotated[int, Field(ge=16, le=MOST_TOKENS)] = Field(
        default=131_072, description="A session ends before this."
    )

    def to_shape(self) -> SessionShape:
        added = lognormal_quantiles(self.added_tokens, self.added_sigma, self.longest_tokens)
        return SessionShape(self.turns, self.pause_s, self.pause_sigma, added, self.longest_tokens)


class GeneratedLoad(Section):
    """Requests generated in the shape of a fitted profile."""

    kind: Literal["generated"] = Field(description="`generated`: drawn from a fitted profile.")
    profile: str | None = Field(default=None, description="A profile that ships with Tidegate.")
    profile_file: LocalPath | None = Field(default=None, description="Or one of your own, as `trace fit` writes it.")
    rate: Rate | None = Field(default=None, description="Mean requests per second; by default the source's own.")
    follow: bool = Field(
        default=False, description="Follow the profile's day, week or bursts; otherwise the rate is steady."
    )
    begin_hour: Annotated[float, Field(ge=0, lt=168)] = Field(
        default=0.0, description="The hour of the profile's day or week at which the run begins."
    )
    curve: list[RatePoint] = Field(default=[], description="A rate of your own, in place of `rate` and `follow`.")
    sessions: SessionSettings | None = Field(default=None, description="Conversations, in place of the profile's own.")
    tenants: dict[Name, Positive] = Field(default={}, description="Tenants and their shares of the sessions.")
    prompt_scale: TokenScale = Field(default=1.0, description="Prompts are this many times as long.")
    output_scale: TokenScale = Field(default=1.0, description="Answers are this many times as long.")

    @model_validator(mode="after")
    def _fits(self) -> GeneratedLoad:
        if (self.profile is None) == (self.profile_file is None):
            raise Misplaced("name either `profile` or `profile_file`", "profile")
        profile = self._profile()
        if self.follow and not profile.hourly_shape and profile.hour_levels is None:
            raise Misplaced(f"{profile.name} knows no day; leave it out, or give a `curve`", "follow")
        if self.curve:
            if self.rate is not None or self.follow:
                raise Misplaced("stands in place of `rate` and `follow`; leave one out", "curve")
            try:
                self._curve()
            except ValueError as error:
                raise Misplaced(str(error), "curve") from None
        elif self.rate is None and profile.mean_per_s <= 0:
            raise Misplaced(f"is needed: {profile.name} does not know its own rate", "rate")
        return self

    def require_few(self, duration_s: float, *at: str) -> None:
        """Raises ``Misplaced`` for a duration, whose field is ``at``, in which more requests come than can be held."""
        rate = max((point.rate for point in self.curve), default=0.0) or self.rate or self._profile().mean_per_s
        if rate * duration_s > MOST_REQUESTS:
            raise Misplaced(
                f"{format_duration(duration_s)} at {rate:g} requests per second are more than {MOST_REQUESTS:,.0f}; "
                "take a lower rate, or less time",
                *at,
            )

    def _profile(self) -> LoadProfile:
        try:
            found = load_profile(self.profile) if self.profile is not None else read_profile(self._file())
        except ConfigError as error:
            raise Misplaced(str(error), "profile" if self.profile is not None else "profile_file") from None
        scaled = scale_tokens(found, prompt=self.prompt_scale, output=self.output_scale)
        return scaled if self.sessions is None else replace(scaled, sessions=self.sessions.to_shape())

    def _file(self) -> Path:
        assert self.profile_file is not None
        return self.profile_file

    def _curve(self) -> RateCurve | None:
        if not self.curve:
            return None
        return RateCurve(tuple(point.at_s for point in self.curve), tuple(point.rate for point in self.curve))

    def to_source(self) -> Source:
        profile = self._profile()
        return GeneratedSource(
            profile, self.rate or profile.mean_per_s, self.follow, self.begin_hour, self._curve(), self.tenants or None
        )


class _Windowed(Section):
    window: str | None = Field(default=None, description="The part that is played, as `10m..1h`; by default all.")

    @model_validator(mode="after")
    def _is_window(self) -> _Windowed:
        try:
            self._window()
        except ConfigError as error:
            raise Misplaced(error.problem, "window") from None
        return self

    def _window(self) -> Window:
        return parse_window(self.window) if self.window is not None else WHOLE


class TraceLoad(_Windowed):
    """Requests as a trace recorded them."""

    kind: Literal["trace"] = Field(description="`trace`: replayed from a file.")
    path: LocalPath = Field(description="The trace: BurstGPT, Azure, Mooncake or a request log, plain or gzip.")
    rate_scale: RateScale = Field(default=1.0, description="Times the recorded rate.")
    scale_method: Annotated[ScaleMethod, Field(strict=False)] = Field(
        default=ScaleMethod.SUPERPOSE, description="How a rate is raised."
    )
    only: Annotated[RequestKind, Field(strict=False)] | None = Field(
        default=None, description="Requests of this kind only, where the trace tells kinds."
    )
    recorded_model: str | None = Field(default=None, description="Requests recorded for this model only.")
    skip_bad: bool = Field(default=False, description="Leave malformed rows out instead of stopping.")

    def to_source(self) -> Source:
        return TraceSource(
            self.path, self._window(), self.rate_scale, self.scale_method, self.only, self.recorded_model, self.skip_bad
        )


class ServeGenLoad(_Windowed):
    """Requests in the shape of a service that ServeGen describes."""

    kind: Literal["servegen"] = Field(description="`servegen`: drawn from ServeGen's clients and histograms.")
    clients: LocalPath = Field(description="The file of clients' rates and gaps by window.")
    histograms: LocalPath = Field(description="The file of token histograms.")
    rate_scale: RateScale = Field(default=1.0, description="Times the rate; each client's burstiness is kept.")

    def to_source(self) -> Source:
        return ServeGenSource(self.clients, self.histograms, self._window(), self.rate_scale)


class ClientSettings(Section):
    """How clients behave in a closed loop. By default they wait for ever and never ask again."""

    patience_s: PositiveDuration | None = Field(
        default=None, description="Median time to the first token after which a client leaves; none: nobody leaves."
    )
    patience_sigma: Annotated[float, Field(ge=0, le=3)] = Field(
        default=_RULES.patience_sigma, description="Spread of patience: the lognormal distribution's sigma."
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=_RULES.retries, description="How often a client asks again after a failure, rejection or leaving."
    )
    retry_share: Share = Field(default=_RULES.retry_share, description="The probability of each such attempt.")
    retry_pause_s: PositiveDuration = Field(
        default=_RULES.retry_pause_s, description="Time before the first of them, doubled each time."
    )

    def to_rules(self) -> ClientRules:
        return ClientRules(self.patience_s, self.patience_sigma, self.retries, self.retry_share, self.retry_pause_s)


class LoadSettings(Section):
    """One stream of requests: where it comes from, and how its clients behave."""

    source: Annotated[GeneratedLoad | TraceLoad | ServeGenLoad, Field(discriminator="kind")] = Field(
        description="Where the requests come from."
    )
    clients: ClientSettings = Field(default=ClientSettings(), description="How clients behave in a closed loop.")


class ScenarioModel(Section):
    """One model, by the name that `policies.yaml` gives it."""

    loads: dict[Name, LoadSettings] = Field(min_length=1, description="Its streams of requests; they add up.")


class MetricSettings(Section):
    """How measurements reach the broker late, or not at all. By default at once and all of them."""

    loss: Share = Field(default=PERFECT.loss, description="The probability that a scrape of a replica is lost.")
    report_loss: Share = Field(
        default=PERFECT.report_loss, description="That of a gateway's report, which is sent again with the next."
    )
    delay_s: Duration = Field(default=PERFECT.delay_s, description="Median time that they take to the broker.")
    delay_sigma: Annotated[float, Field(ge=0, le=3)] = Field(
        default=PERFECT.delay_sigma, description="Spread of that time: the lognormal distribution's sigma."
    )
    outage_every_s: Duration = Field(
        default=PERFECT.outage_every_s, description="Mean time between outages of all measurements; 0: none."
    )
    outage_s: PositiveDuration = Field(default=PERFECT.outage_s, description="Mean time that an outage lasts.")

    def to_faults(self) -> MetricFaults:
        return MetricFaults(
            self.loss, self.report_loss, self.delay_s, self.delay_sigma, self.outage_every_s, self.outage_s
        )


class ScenarioSettings(Section):
    """The whole of `scenario.yaml`: what several models are asked in one simulated run."""

    duration_s: PositiveDuration = Field(description="How long requests arrive.")
    start: Date | None = Field(
        default=None, description="The day at whose 00:00 UTC it begins; schedules and a cluster's hours go by it."
    )
    models: dict[Name, ScenarioModel] = Field(min_length=1, description="The models that are asked.")
    metrics: MetricSettings = Field(default=MetricSettings(), description="How measurements reach the broker.")

    @model_validator(mode="after")
    def _few(self) -> ScenarioSettings:
        for model in self.models.values():
            for load in model.loads.values():
                if isinstance(load.source, GeneratedLoad):
                    load.source.require_few(self.duration_s, "duration")
        return self

    def to_scenario(self) -> Scenario:
        return Scenario(
            self.duration_s,
            tuple(
                Load(model_id, name, load.source.to_source(), load.clients.to_rules())
                for model_id, model in self.models.items()
                for name, load in model.loads.items()
            ),
            start_at=self._start_at(),
            metrics=self.metrics.to_faults(),
        )

    def _start_at(self) -> float | None:
        return None if self.start is None else datetime.fromisoformat(f"{self.start}T00:00:00+00:00").timestamp()


def load_scenario(path: str | Path) -> Scenario:
    """``scenario.yaml``. Raises ``ConfigErrors``."""
    return read_section(ScenarioSettings, read_document(path)).to_scenario()
