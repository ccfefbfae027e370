"""A profile: the coefficients and limits of one engine, each with its provenance and its range of validity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from simulator.engine.profile import EngineProfile


class Method(StrEnum):
    """How a number was come by, the most trustworthy first."""

    MEASURED = "measured"
    FITTED = "fitted"
    DERIVED = "derived"  # computed from sizes and data sheets
    FLOOR = "floor"  # physics allows no less; the truth is above it
    DEFAULT = "default"  # what vLLM takes if nobody says otherwise
    CHOSEN = "chosen"  # made up to serve a purpose, and says which


@dataclass(frozen=True, slots=True)
class Range:
    """From ``low`` to ``high``, both within. Raises ``ValueError`` if they are the wrong way round."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"a range goes from the lower to the higher value, not from {self.low:g} to {self.high:g}")

    def holds(self, other: Range) -> bool:
        return self.low <= other.low and other.high <= self.high

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class WorkloadRange:
    """The loads that something was measured at, or is asked about; None: anything, or not known.

    ``prompt_tokens`` and ``output_tokens`` of one request, ``cached_share`` of prompt tokens that the prefix cache
    served (0 to 1), ``concurrency``: requests that the engine has at once, running or waiting.
    """

    prompt_tokens: Range | None = None
    output_tokens: Range | None = None
    cached_share: Range | None = None
    concurrency: Range | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """One number with its provenance. ``valid`` stands in for the profile's own range where it is narrower or wider;
    ``relative_error`` is the standard error that a fit claims, as a share of the value."""

    value: float
    method: Method
    source: str
    valid: WorkloadRange | None = None
    relative_error: float | None = None


@dataclass(frozen=True, slots=True)
class LoadTime:
    """Cold start, process start to first request: lognormal around ``median_s``; ``sigma`` 0 is always the median."""

    median_s: float
    sigma: float
    method: Method
    source: str

    def __post_init__(self) -> None:
        if not (self.median_s >= 0 and self.sigma >= 0):
            raise ValueError("a load time's median and sigma are not negative")


COEFFICIENTS = (
    "base_s", "s_per_prefill_token", "s_per_decode_sequence", "s_per_kv_token", "front_end_s", "front_end_s_per_token",
    "wakeup_latency_s",
)  # fmt: skip
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "block_size", "num_blocks")


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one kind of hardware, cut over ``tensor_parallel`` GPUs.

    ``coefficients`` has a value for each of ``COEFFICIENTS`` and ``limits`` for each of ``LIMITS``; ``EngineProfile``
    says what they mean. ``valid``: the loads behind them; None where nothing was measured. Raises ``ValueError`` for
    missing or unknown names and for numbers that no engine can have.
    """

    name: str
    hardware: str
    model: str
    tensor_parallel: int
    precision: str
    summary: str
    coefficients: Mapping[str, Value]
    limits: Mapping[str, Value]
    load_time: LoadTime
    valid: WorkloadRange | None = None

    def __post_init__(self) -> None:
        for kind, given, known in (("coefficient", self.coefficients, COEFFICIENTS), ("limit", self.limits, LIMITS)):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
            if missing := [name for name in known if name not in given]:
                raise ValueError(f"{kind} {', '.join(missing)} missing")
        if fractional := [name for name, limit in self.limits.items() if limit.value != int(limit.value)]:
            raise ValueError(f"{', '.join(fractional)}: a whole number is needed")
        _engine(self)

    @property
    def engine(self) -> EngineProfile:
        """What the engines take: the bare numbers, with the median load time."""
        return _engine(self)


def _engine(profile: Profile) -> EngineProfile:
    seconds = {name: value.value for name, value in profile.coefficients.items()}
    limits = {name: int(value.value) for name, value in profile.limits.items()}
    return EngineProfile(
        name=profile.name,
        base_s=seconds["base_s"],
        s_per_prefill_token=seconds["s_per_prefill_token"],
        s_per_decode_sequence=seconds["s_per_decode_sequence"],
        s_per_kv_token=seconds["s_per_kv_token"],
        max_num_seqs=limits["max_num_seqs"],
        max_num_batched_tokens=limits["max_num_batched_tokens"],
        block_size=limits["block_size"],
        num_blocks=limits["num_blocks"],
        load_time_s=profile.load_time.median_s,
        front_end_s=seconds["front_end_s"],
        provenance=profile.summary,
        front_end_s_per_token=seconds["front_end_s_per_token"],
        wakeup_latency_s=seconds["wakeup_latency_s"],
    )


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A workload goes beyond what some of a profile's values were measured at."""

    quantity: str
    asked: Range
    valid: Range
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"extrapolated: {self.quantity} {self.asked}, measured {self.valid} ({', '.join(self.values)})"


def extrapolations(profile: Profile, workload: WorkloadRange) -> tuple[Extrapolation, ...]:
    """Where ``workload`` goes beyond the ranges of ``profile``'s coefficients, for a report to say so; empty if
    nowhere. What the workload leaves open (None) is not asked about, and what a profile leaves open is valid."""
    found: dict[tuple[str, Range, Range], list[str]] = {}
    for name in COEFFICIENTS:
        valid = profile.coefficients[name].valid or profile.valid
        for quantity in (field.name for field in fields(WorkloadRange)):
            asked: Range | None = getattr(workload, quantity)
            known: Range | None = getattr(valid, quantity) if valid is not None else None
            if asked is not None and known is not None and not known.holds(asked):
                found.setdefault((quantity, asked, known), []).append(name)
    return tuple(Extrapolation(*where, tuple(names)) for where, names in found.items())
