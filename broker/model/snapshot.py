"""All that a policy may know at ``now``: never the future, never the output length of an unfinished request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.making import quickly_made
from broker.model.reading import ABSENT, Freshness, Reading
from broker.model.signals import Signal
from broker.model.starts import StartTimes


@dataclass(frozen=True, slots=True)
class WindowNeed:
    """A policy's declaration that it wants ``signal`` summarised over the last ``over_s`` seconds."""

    signal: Signal
    over_s: float


@quickly_made
@dataclass(frozen=True, slots=True)
class WindowReading:
    """``signal`` over the last ``over_s`` seconds. "X above t for 30s" means: ``covered`` and ``minimum`` > t.

    ``covered`` is False until the window has seen the whole span without a gap longer than the signal's patience;
    minimum, maximum and mean are None when nothing was seen.
    """

    signal: Signal
    over_s: float
    freshness: Freshness
    covered: bool
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    observed_at: float | None = None


@quickly_made
@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One replica's own gauges at ``observed_at``, for drains and for choosing which replica to drain."""

    replica_id: str
    observed_at: float
    requests_running: float
    requests_waiting: float
    kv_cache_use: float = 0.0


@quickly_made
@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """What ``SignalWindow`` says of one model. ``sequence`` increases with every snapshot of the model.

    ``problem`` is empty, unless the window itself failed lately: it says why nothing, or only the latest, is known.
    """

    model_id: str
    sequence: int
    observed_at: float
    received_at: float
    readings: Mapping[Signal, Reading] = field(default_factory=dict)
    windows: tuple[WindowReading, ...] = ()
    replicas: tuple[ReplicaLoad, ...] = ()
    problem: str = ""

    def reading(self, signal: Signal) -> Reading:
        return self.readings.get(signal, ABSENT)

    def window(self, signal: Signal, over_s: float) -> WindowReading:
        """The declared window, or an absent one if nobody declared it."""
        for window in self.windows:
            if window.signal is signal and window.over_s == over_s:
                return window
        return WindowReading(signal, over_s, Freshness.ABSENT, covered=False)


@quickly_made
@dataclass(frozen=True, slots=True)
class Supply:
    """Replicas of one model by what they are good for. ``target`` is what the last decision wanted. ``expiring`` of
    those ready serve on until their pool ends them, and a successor is wanted for each."""

    target: int
    ready: int
    on_its_way: int
    draining: int
    ready_baseline: int = 0
    expiring: int = 0

    @property
    def lasting(self) -> int:
        """Those ready that need no successor."""
        return self.ready - self.expiring

    @property
    def coming(self) -> int:
        """How many more there will be than now: those on their way, less the successors among them."""
        return max(0, self.on_its_way - self.expiring)


@quickly_made
@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """One model's signals joined with its supply and bounds at ``now``: the argument of ``Policy.recommend``.

    ``start_time_s`` is the learned time from intent to ready (the median of the latest), None until one replica became
    ready. ``starts`` are the model's latest starts by pool; ``broker.model.starts.loads_like`` tells how long one on a
    kind of node takes.
    """

    now: float
    model: ModelSnapshot
    supply: Supply
    minimum: int
    maximum: int
    start_time_s: float | None = None
    starts: tuple[StartTimes, ...] = ()
