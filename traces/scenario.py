"""What several models are asked in one run: loads from profiles, traces and shapes, added up.

Everything is a function of the run's seed; each load draws from streams of its own name, so that adding a load, or
changing one, leaves the others as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from traces.blocks import Names
from traces.clients import ClientRules, Clients, recorded
from traces.conditions import PERFECT, MetricFaults
from traces.generate import LoadProfile, generate, scripts, tenant_shares
from traces.options import RequestKind, ScaleMethod
from traces.randomness import stream
from traces.rates import RateCurve, bursting, shaped, steady
from traces.readers import open_trace
from traces.schema import Requests, replayable
from traces.servegen import read_servegen, servegen_requests
from traces.sessions import Script
from traces.shape import WHOLE, Window, of_kind, of_model, scale_rate, together, window


class Source(Protocol):
    """Where the requests of one load come from."""

    def requests(self, seed: int, name: str, duration_s: float) -> Requests:
        """Open loop, until ``duration_s``. Raises ``TraceError`` or ``ConfigError``."""
        ...

    def scripts(self, seed: int, name: str, duration_s: float) -> tuple[Iterator[Script], Names]:
        """The same load for clients that react, and the names of its tenants, which fill as it is read."""
        ...

    @property
    def has_sessions(self) -> bool:
        """Whether what a client asks next waits for its answer."""
        ...


@dataclass(frozen=True, slots=True)
class GeneratedSource:
    """Requests shaped like a profile: at the rates of ``curve``, or at ``rate_per_s`` on average: steady, or following
    the profile's day, week or bursts from its hour ``begin_hour`` on. ``tenants`` are names and shares."""

    profile: LoadProfile
    rate_per_s: float = 1.0
    follow: bool = False
    begin_hour: float = 0.0
    curve: RateCurve | None = None
    tenants: Mapping[str, float] | None = None

    def requests(self, seed: int, name: str, duration_s: float) -> Requests:
        return generate(self.profile, self._rates(seed, name, duration_s), seed, name=name, tenants=self.tenants)

    def scripts(self, seed: int, name: str, duration_s: float) -> tuple[Iterator[Script], Names]:
        shares = tenant_shares(self.profile, self.tenants)
        found = scripts(
            self.profile, self._rates(seed, name, duration_s), seed, name=name, shares=tuple(shares.values())
        )
        return found, Names("tenants", tuple(shares))

    @property
    def has_sessions(self) -> bool:
        return self.profile.sessions is not None

    def _rates(self, seed: int, name: str, duration_s: float) -> RateCurve:
        if self.curve is not None:
            return self.curve.until(duration_s)
        if not self.follow:
            return steady(self.rate_per_s, duration_s)
        levels = self.profile.hour_levels
        if not self.profile.hourly_shape and levels is not None:
            return bursting(self.rate_per_s, levels, duration_s, stream(seed, name, "hours"))
        return shaped(self.rate_per_s, self.profile.hourly_shape, duration_s, begin_hour=self.begin_hour)


@dataclass(frozen=True, slots=True)
class TraceSource:
    """Requests as a trace recorded them: a window, requests of one kind or for one model only, at a scaled rate."""

    path: Path
    window: Window = WHOLE
    rate_scale: float = 1.0
    scale_method: ScaleMethod = ScaleMethod.SUPERPOSE
    kind: RequestKind | None = None
    recorded_model: str | None = None
    skip_bad: bool = False

    def requests(self, seed: int, name: str, duration_s: float) -> Requests:
        found: Requests = replayable(open_trace(self.path, skip_bad=self.skip_bad))
        if self.kind is not None:
            found = of_kind(found, self.kind)
        if self.recorded_model is not None:
            found = of_model(found, self.recorded_model)
        scaled = scale_rate(found, self.rate_scale, seed, self.scale_method)
        return window(scaled, self.window.start_s, min(self.window.end_s, self.window.start_s + duration_s))

    def scripts(self, seed: int, name: str, duration_s: float) -> tuple[Iterator[Script], Names]:
        found = self.requests(seed, name, duration_s)
        return recorded(found), found.tenants

    @property
    def has_sessions(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ServeGenSource:
    """Requests in the shape of a service that ServeGen describes, each of its clients a tenant."""

    clients: Path
    histograms: Path
    window: Window = WHOLE
    rate_scale: float = 1.0

    def requests(self, seed: int, name: str, duration_s: float) -> Requests:
        shape = read_servegen(self.clients, self.histograms)
        found = servegen_requests(shape, seed, rate_scale=self.rate_scale, name=name)
        return window(found, self.window.start_s, min(self.window.end_s, self.window.start_s + duration_s))

    def scripts(self, seed: int, name: str, duration_s: float) -> tuple[Iterator[Script], Names]:
        found = self.requests(seed, name, duration_s)
        return recorded(found), found.tenants

    @property
    def has_sessions(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Load:
    """One stream of requests to one model, by clients who behave alike."""

    model: str
    name: str
    source: Source
    rules: ClientRules

    @property
    def reacts(self) -> bool:
        """Whether its clients ask otherwise when they are answered otherwise."""
        return self.rules.patience_median_s is not None or self.rules.retries > 0 or self.source.has_sessions

    @property
    def stream_name(self) -> str:
        return f"{self.model}/{self.name}"


@dataclass(frozen=True, slots=True)
class ReactingLoad:
    """A load whose clients react: ``clients.openings(scripts)`` begins it. ``tenants`` are the names of its codes."""

    model: str
    name: str
    clients: Clients
    scripts: Iterator[Script]
    tenants: Names


@dataclass(frozen=True, slots=True)
class Scenario:
    """``start_at``: its second 0 in epoch seconds, which matters to schedules; None: it is no day in particular."""

    duration_s: float
    loads: tuple[Load, ...]
    start_at: float | None = None
    metrics: MetricFaults = PERFECT

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(load.model for load in self.loads))

    def requests(self, seed: int) -> Requests:
        """All loads together, open loop, in order of arrival, each with its model and tenant."""
        return together(
            [(load.model, load.source.requests(seed, load.stream_name, self.duration_s)) for load in self.loads]
        )

    def reacting(self, seed: int) -> list[ReactingLoad]:
        """The loads for a closed loop."""
        return [self._reacting(load, seed) for load in self.loads]

    def _reacting(self, load: Load, seed: int) -> ReactingLoad:
        found, tenants = load.source.scripts(seed, load.stream_name, self.duration_s)
        clients = Clients(load.rules, seed, name=load.stream_name)
        return ReactingLoad(load.model, load.name, clients, found, tenants)
