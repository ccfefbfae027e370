"""What else than its pace could have held up the recorded server: the cost of each suspect, as the requests tell it.

Each request's decoding time is regressed on its tokens, those that were decoded beside it, their context, and one
suspect at a time. Generalised least squares: two requests that decode in the same second are slow together, as the pace
wanders, so that what tells a suspect is the difference between requests near each other in time; outliers are tamed
(Huber). What happens beside a request is counted in the time that its decoding should have taken: counted in the time
that it did take, slow seconds would look like costly arrivals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from accuracy.base import Cell, Table, percent
from accuracy.recorded import FITTED_PHASES, OVERLOAD, Chosen, Comparison, Noise
from simulator.calibration.replay import Floats, Times
from simulator.engine.profile import EngineProfile

CLIENT_JITTER_S = 0.005
"""Spread of a single request's decoding time apart from the pace."""
AFTER_IDLE_S = 0.02
HUBER = 1.345
ROUNDS = 5
BURST = 7


@dataclass(frozen=True, slots=True)
class Record:
    """What a recording tells: its requests, and when the page of metrics was read."""

    times: Times
    prompts: Floats
    pages_at: Floats
    engine: EngineProfile


@dataclass(frozen=True, slots=True)
class Effect:
    """Seconds for each unit of a suspect, its standard error, and how many units there were in all requests."""

    value: float
    error: float
    units: float


class _Beside:
    """What surrounds the decoding of the ``chosen`` requests: as measured, or within the time ``lasts`` that it should
    have taken."""

    def __init__(self, record: Record, chosen: Chosen) -> None:
        self.record, self.chosen = record, chosen
        times = record.times
        self.begins, self.ends = times.first_token[chosen], times.end[chosen]
        self.gaps = times.output_tokens[chosen] - 1
        self.span = np.maximum(self.ends - self.begins, 1e-9)
        self.lasts = self.gaps * self.span.sum() / self.gaps.sum()

    def sequences(self) -> Floats:
        return self._covered(self.record.times.first_token, self.record.times.end)

    def context(self) -> Floats:
        """Cached tokens on average."""
        times, prompts = self.record.times, self.record.prompts
        begins = np.maximum(self.begins[:, None], times.first_token)
        ends = np.minimum(self.ends[:, None], times.end)
        done = np.clip(
            ((begins + ends) / 2 - times.first_token) / np.maximum(times.end - times.first_token, 1e-9), 0, 1
        )
        found: Floats = (self._overlap(times.first_token, times.end) * (prompts + times.output_tokens * done)).sum(
            axis=1
        )
        return found

    def waiting(self) -> Floats:
        return self._covered(self.record.times.arrival, self.record.times.first_token)

    def full(self) -> Floats:
        """Share of the time in which all slots were taken."""
        at, running = _running(self.record.times)
        full = np.concatenate([[0.0], np.cumsum(np.diff(at) * (running[:-1] >= self.record.engine.max_num_seqs))])
        found: Floats = (np.interp(self.ends, at, full) - np.interp(self.begins, at, full)) / self.span
        return found

    def after_idle(self) -> Floats:
        """Share of the time that lies just after the engine was idle."""
        at, running = _running(self.record.times)
        woken = at[1:][(running[:-1] == 0) & (running[1:] > 0)]
        return self._covered(woken, woken + AFTER_IDLE_S)

    def prompt_tokens(self) -> Floats:
        """Of the requests whose first token falls into the decoding."""
        return self.within(self.record.times.first_token, self.record.prompts)

    def within(self, at: Floats, weight: Floats | float = 1.0) -> Floats:
        """How many of ``at`` fall into the decoding, with their weights."""
        begins, until = self.begins[:, None], (self.begins + self.lasts)[:, None]
        found: Floats = (((at > begins) & (at <= until)) * weight).sum(axis=1)
        return found

    def _covered(self, first: Floats, last: Floats) -> Floats:
        """The shares of all spans together: how many there were on average."""
        found: Floats = self._overlap(first, last).sum(axis=1)
        return found

    def _overlap(self, first: Floats, last: Floats) -> Floats:
        """The share of each request's decoding that each span covers."""
        begins, ends = np.maximum(self.begins[:, None], first), np.minimum(self.ends[:, None], last)
        found: Floats = np.clip(ends - begins, 0.0, None) / self.span[:, None]
        return found


def _running(times: Times) -> tuple[Floats, Floats]:
    """When the number of decoding sequences changes, and what it is from then on."""
    at = np.concatenate([times.first_token, times.end])
    change = np.concatenate([np.ones(len(times.first_token)), -np.ones(len(times.end))])
    order = np.lexsort((change, at))
    return at[order], np.cumsum(change[order])


SUSPECTS: dict[str, Callable[[_Beside], Floats]] = {
    "all slots taken, by iteration": lambda beside: beside.gaps * beside.full(),
    "a prompt token computed beside": lambda beside: beside.prompt_tokens(),
    "an arrival": lambda beside: beside.within(beside.record.times.arrival),
    "a request that ends": lambda beside: beside.within(beside.record.times.end),
    "a page of /metrics": lambda beside: beside.within(beside.record.pages_at),
    "a request waiting, by iteration": lambda beside: beside.gaps * beside.waiting(),
    "an iteration just after idleness": lambda beside: beside.gaps * beside.after_idle(),
    "a minute of the run, by iteration": lambda beside: beside.gaps * (beside.begins - beside.begins.min()) / 60,
}  # fmt: skip


def effect(record: Record, chosen: Chosen, noise: Noise, suspect: Callable[[_Beside], Floats]) -> Effect:
    """What ``suspect`` costs the decoding of the ``chosen`` requests."""
    beside = _Beside(record, chosen & (record.times.output_tokens > 1))
    prompt_s = record.engine.s_per_prefill_token
    known = np.column_stack([beside.gaps, beside.gaps * beside.sequences(), beside.gaps * beside.context()])
    for _ in range(ROUNDS):
        units = suspect(beside)
        computed = prompt_s * beside.prompt_tokens()
        columns = np.column_stack([known, units])
        root = np.linalg.cholesky(_covariance(beside, noise))
        whitened, target = np.linalg.solve(root, columns), np.linalg.solve(root, beside.span - computed)
        solution, errors = _huber(whitened, target)
        beside.lasts = np.maximum(columns @ solution + computed, 1e-4)
    return Effect(float(solution[-1]), float(errors[-1]), float(units.sum()))


def _covariance(beside: _Beside, noise: Noise) -> Floats:
    """Of decoding times under a pace whose logarithm wanders with memory: its covariance over both spans."""
    begins, ends = beside.begins, beside.begins + beside.lasts

    def twice(apart: Floats) -> Floats:
        memory = noise.memory_s
        found: Floats = memory**2 * (np.exp(-np.abs(apart) / memory) - 1) + memory * np.abs(apart)
        return found

    shared = (
        twice(ends[:, None] - begins) + twice(begins[:, None] - ends)
        - twice(ends[:, None] - ends) - twice(begins[:, None] - begins)
    )  # fmt: skip
    found: Floats = noise.sigma**2 * shared + CLIENT_JITTER_S**2 * np.eye(len(begins))
    return found


def _huber(columns: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Coefficients and their standard errors."""
    scale = np.abs(columns).mean(axis=0) + 1e-15
    scaled = columns / scale
    weight = np.ones(len(target))
    for _ in range(30):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(scaled * root[:, None], target * root, rcond=None)[0]
        left = target - scaled @ solution
        spread = 1.4826 * float(np.median(np.abs(left)))
        weight = np.minimum(1.0, HUBER * spread / np.maximum(np.abs(left), 1e-12))
    inverse = np.linalg.pinv((scaled * weight[:, None]).T @ scaled)
    return solution / scale, spread * np.sqrt(np.diag(inverse)) / scale


def suspects(found: Comparison) -> Table:
    """Each suspect by the fitted phases, by the overload and by the burst, and what it would explain."""
    prompts = np.array([request.prompt_tokens for request in found.log.requests], dtype=np.float64)
    record = Record(found.log.times, prompts, found.measured.at, found.fitted.engine)
    phases = found.log.phases
    inside = [found.within(phase) for phase in phases]
    fitted = np.any(inside[:FITTED_PHASES], axis=0)
    overload = inside[OVERLOAD - 1]
    decoding_s = float((record.times.end - record.times.first_token)[overload].sum())
    rows: list[tuple[Cell, ...]] = []
    for name, suspect in SUSPECTS.items():
        by = [effect(record, chosen, found.noise, suspect) for chosen in (fitted, overload, inside[BURST - 1])]
        share = by[1].units / decoding_s
        rows.append((
            name, *(f"{1000 * each.value:.3g} ± {1000 * each.error:.2g}" for each in by),
            f"{percent(by[0].value * share)} ± {percent(by[0].error * share)}",
        ))  # fmt: skip
    return Table(
        "recording_suspects",
        "What else could have held up the server: cost of each suspect in decoding time (ms, with standard error)",
        ("suspect", "by the fitted phases", "by the overload (not used)", "by the burst (not used)",
         "of the overload's time, by the fitted phases"),
        tuple(rows),
        n=int((fitted | overload | inside[BURST - 1]).sum()),
        free=4,
        remarks=(
            "Each beside a time per iteration, per sequence and per cached token, one suspect at a time; prompt tokens "
            "are taken as fitted. Arrivals and pages come when they come; the others come also of the pace itself: "
            "more requests end in fast seconds, and more wait in slow ones (by the fitted phases' figure, which is one "
            "slow moment's, the overload would have lasted three times as long).",
            "A page of /metrics holds the engine up in every phase, as it takes processor time on the same two cores. "
            "Pages come at the same rate always, so that the fit has them in its iterations. Whether an arrival does "
            "so too is not told by the fitted phases.",
        ),
    )  # fmt: skip
