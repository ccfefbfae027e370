"""Table 1 of the RAMSES paper: Mistral Small 24B on one H100 and on two L40S, 100, 500 and 1000 requests at once.

The table tells four medians of each of six runs, token totals, and no lengths. Of both GPUs are fitted a base time, a
time per sequence and per token in the cache, and the front end; of both together the largest of the answers' lengths,
their spread at each concurrency (the mean answer doubles from 100 to 1000: these are three workloads), and which share
of the prompts was computed at all. The front end's time per streamed token is left out: requests that all come at once
are before every token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from accuracy.base import Cell, Report, Table, Tell, known, median_of, percent, skill
from simulator.calibration.fit import Figure, Load, Metric, Residual, Statistic, compare, load_residuals, simulate_load
from simulator.calibration.replay import Floats
from simulator.calibration.solve import Parameter, Solution, solve
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineRequest
from simulator.profiles.physics import GPUS

PARAMETER_COUNT = 24e9  # of the model's
ROOMY_BLOCKS = 1 << 20
"""Cached prompts share their blocks, which this engine does not model; with blocks of their own 1000 of them would not
fit on the H100, and the measured times show that nothing waited for memory."""


@dataclass(frozen=True, slots=True)
class Run:
    """One column of the table: medians in seconds, rate in tokens per second, and token totals."""

    gpu: str
    count: int
    ttft_s: float
    tpot_s: float
    output_rate: float
    e2e_s: float

    @property
    def name(self) -> str:
        return f"{self.gpu}, {self.count} at once"

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (
            Figure(Metric.TTFT, Statistic.MEDIAN, self.ttft_s),
            Figure(Metric.TPOT, Statistic.MEDIAN, self.tpot_s),
            Figure(Metric.OUTPUT_RATE, Statistic.MEAN, self.output_rate),
            Figure(Metric.E2E, Statistic.MEDIAN, self.e2e_s),
        )


H100, L40S = "1 x H100", "2 x L40S"
TABLE_1 = (
    Run(H100, 100, 0.22558, 0.03341, 405.79, 1.19580),
    Run(H100, 500, 0.99391, 0.06721, 1956.22, 3.02986),
    Run(H100, 1000, 2.19097, 0.08674, 4121.70, 6.19010),
    Run(L40S, 100, 0.40438, 0.06552, 234.91, 2.30796),
    Run(L40S, 500, 1.84979, 0.09061, 1048.13, 7.38158),
    Run(L40S, 1000, 8.32836, 0.10213, 1672.62, 22.38504),
)
INPUT_TOKENS = {100: 77_561, 500: 381_456, 1000: 768_960}
OUTPUT_TOKENS = {100: 7_000, 500: 50_000, 1000: 142_000}
FLOPS = {H100: GPUS["H100 SXM"].flops, L40S: 2 * GPUS["L40S"].flops}
MAX_NUM_SEQS = {H100: 1024, L40S: 256}
BATCHED_TOKENS = {H100: 8192, L40S: 2048}
"""vLLM's defaults on these GPUs; the paper does not tell them."""

PER_GPU = {
    H100: (
        ("base_s", 0.028, 0.03), ("s_per_decode_sequence", 1e-4, 1e-4),
        ("s_per_kv_token", 6e-8, 5e-8), ("front_end_s", 3.3e-3, 3e-3),
    ),
    L40S: (
        ("base_s", 0.051, 0.05), ("s_per_decode_sequence", 2e-4, 2e-4),
        ("s_per_kv_token", 1.2e-7, 1e-7), ("front_end_s", 6e-3, 5e-3),
    ),
}  # fmt: skip
SHARED = (Parameter("output_cap", 596.0, 600.0, low=400.0, high=2000.0),)
SPREADS = {100: 1.5, 500: 1.9, 1000: 2.0}
COMPUTED = Parameter("computed_share", 0.02, 0.25, low=0.005, high=1.0)


def parameters(counts: Collection[int], with_share: bool) -> list[Parameter]:
    """The free numbers of a fit to the runs of these concurrencies."""
    found = [Parameter(f"{gpu} {name}", start, scale) for gpu, each in PER_GPU.items() for name, start, scale in each]
    spreads = [Parameter(_spread(count), SPREADS[count], 1.5, low=0.3, high=3.0) for count in counts]
    return [*found, *SHARED, *spreads, *((COMPUTED,) if with_share else ())]


def _spread(count: int) -> str:
    return f"output_sigma of {count}"


def engine_of(run: Run, values: dict[str, float]) -> EngineProfile:
    """The prompt's cost is its physical floor: the table cannot tell it."""
    return EngineProfile(
        name=run.gpu,
        base_s=max(values[f"{run.gpu} base_s"], 1e-4),
        s_per_prefill_token=2 * PARAMETER_COUNT / FLOPS[run.gpu],
        s_per_decode_sequence=values[f"{run.gpu} s_per_decode_sequence"],
        s_per_kv_token=values[f"{run.gpu} s_per_kv_token"],
        max_num_seqs=MAX_NUM_SEQS[run.gpu],
        max_num_batched_tokens=BATCHED_TOKENS[run.gpu],
        block_size=16,
        num_blocks=ROOMY_BLOCKS,
        load_time_s=0.0,
        front_end_s=values[f"{run.gpu} front_end_s"],
        provenance="fitted to RAMSES, Table 1",
    )


def load_of(run: Run, values: dict[str, float]) -> Load:
    """All at once, prompts of equal length, answers lognormal below a cap with the table's total."""
    prompt = round(INPUT_TOKENS[run.count] / run.count)
    computed = max(1, round(prompt * values["computed_share"]))
    lengths = output_lengths(run.count, OUTPUT_TOKENS[run.count], _spread_of(run.count, values), values["output_cap"])
    requests = tuple(
        EngineRequest(str(index), 0.0, prompt, length, prompt - computed) for index, length in enumerate(lengths)
    )
    return Load(run.name, requests, figures=run.figures)


def _spread_of(count: int, values: dict[str, float]) -> float:
    """A concurrency that was left out has the mean spread of the others."""
    known = [value for name, value in values.items() if name.startswith("output_sigma")]
    return values.get(_spread(count), float(np.mean(known)))


def output_lengths(count: int, total: int, sigma: float, cap: float) -> list[int]:
    """Quantiles of a lognormal with that spread, cut at ``cap``, whose sum is about ``total``, in a shuffled order."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((index + 0.5) / count) for index in range(count)])
    low, high = -5.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if np.minimum(np.exp(middle + sigma * z), cap).sum() < total:
            low = middle
        else:
            high = middle
    lengths = np.maximum(1, np.round(np.minimum(np.exp(low + sigma * z), cap))).astype(int)
    shuffled: list[int] = np.random.default_rng(1).permutation(lengths).tolist()
    return shuffled


def fit_runs(runs: Sequence[Run], *, computed_share: float | None = None) -> Solution:
    """Fit to some of the table's runs, the computed share free or given."""
    free = parameters(sorted({each.count for each in runs}), computed_share is None)
    given = {} if computed_share is None else {"computed_share": computed_share}

    def residuals(values: dict[str, float]) -> Floats:
        values = values | given
        parts = []
        for run in runs:
            load = load_of(run, values)
            parts.append(load_residuals(load, simulate_load(load, engine_of(run, values))))
        return np.concatenate(parts)

    solution = solve(residuals, free)
    solution.values.update(given)
    return solution


def errors_of(runs: Sequence[Run], values: dict[str, float]) -> list[Residual]:
    found = []
    for run in runs:
        load = load_of(run, values)
        found += compare(load, simulate_load(load, engine_of(run, values)))
    return found


def run(tell: Tell) -> Report:
    """Residual, each concurrency left out, and the sensitivity to the cached share."""
    tell("ramses: fitting the whole table")
    whole = fit_runs(TABLE_1)
    found = errors_of(TABLE_1, whole.values)
    free = len(whole.values)
    worst = max(abs(each.relative_error) for each in found)
    residual = Table(
        "ramses_residual",
        "Residual of the fit to all numbers (a residual, no prediction)",
        ("run", "figure", "table", "fitted", "error"),
        tuple(_row(each) for each in found),
        n=len(found),
        free=free,
        remarks=(
            f"Worst {percent(worst)}, root mean square {percent(_rms(found))}: {free} free numbers for {len(found)}.",
            "No null stands beside a residual; the predictions below have one.",
        ),
    )
    left_out = _left_out(tell)
    return Report(
        "ramses",
        (residual, _fitted(whole), *left_out, _sensitivity(tell, whole)),
        headline={"ramses.worst": worst, "ramses.rms": _rms(found)},
    )


def _row(each: Residual) -> tuple[Cell, ...]:
    error = percent(each.relative_error)
    return each.load, each.figure, float(f"{each.measured:.4g}"), float(f"{each.simulated:.4g}"), error


def _rms(found: Sequence[Residual]) -> float:
    return float(np.sqrt(np.mean([each.relative_error**2 for each in found])))


def _fitted(whole: Solution) -> Table:
    return Table(
        "ramses_values",
        "The fitted numbers",
        ("number", "value", "standard error"),
        tuple((name, f"{value:.3g}", known(whole.relative_errors[name])) for name, value in whole.values.items()),
        n=whole.residuals.size,
        free=len(whole.values),
        remarks=(
            *(f"The table tells only together, or not at all: {', '.join(names)}." for names in whole.unknown),
            "The time of a computed prompt token is held at its physical floor: the table cannot calibrate it.",
        ),
    )


def _left_out(tell: Tell) -> tuple[Table, Table]:
    rows: list[tuple[Cell, ...]] = []
    summary: list[tuple[Cell, ...]] = []
    counts = (100, 500, 1000)
    for count in counts:
        tell(f"ramses: predicting {count} at once from the others")
        target = [each for each in TABLE_1 if each.count == count]
        copied_count = min((other for other in counts if other != count), key=lambda other: abs(np.log(other / count)))
        copied = [figure for each in TABLE_1 if each.count == copied_count for figure in each.figures]
        solution = fit_runs([each for each in TABLE_1 if each.count != count])
        found = errors_of(target, solution.values)
        nulls = [copy.value / each.measured - 1 for copy, each in zip(copied, found, strict=True)]
        rows += [(*_row(each), percent(null)) for each, null in zip(found, nulls, strict=True)]
        error, null = median_of([each.relative_error for each in found]), median_of(nulls)
        worst = max(abs(each.relative_error) for each in found)
        summary.append((
            f"{count} at once", len(found), percent(error), percent(worst), percent(null), round(skill(error, null), 2),
        ))  # fmt: skip
    free = len(parameters(counts[:2], with_share=True))
    columns = ("run", "figure", "table", "predicted", "error", "null: copy the nearest concurrency")
    return (
        Table(
            "ramses_left_out", "Each concurrency predicted from the other two", columns, tuple(rows),
            n=len(rows), free=free,
            remarks=(f"Fitted to {2 * len(rows) // 3} numbers with {free} free: 100 and 1000 lie outside the others.",),
        ),
        Table(
            "ramses_left_out_summary", "Over each prediction's eight numbers",
            ("left out", "n", "median error", "worst", "null's median", "skill"), tuple(summary),
            n=len(rows), free=free,
        ),
    )  # fmt: skip


SHARES = (0.02, 0.1, 0.25, 1.0)


def _sensitivity(tell: Tell, whole: Solution) -> Table:
    rows: list[tuple[Cell, ...]] = [_reading("free", whole)]
    for share in SHARES:
        tell(f"ramses: {percent(share)} of the prompts computed")
        rows.append(_reading(percent(share), fit_runs(TABLE_1, computed_share=share)))
    return Table(
        "ramses_cached_share",
        "If another share of the prompts was computed",
        ("computed", "free numbers", "worst error", "root mean square", "H100 base, ms", "H100 front end, ms"),
        tuple(rows),
        n=24,
        free=len(parameters(SPREADS, with_share=False)),
        remarks=(
            "The paper says that the cache was cleared: that is the last row. Its numbers say that most of the prompts "
            "were not computed: 768,960 prompt tokens within the times to first token are more operations than one "
            "H100 does.",
        ),
    )


def _reading(share: str, solution: Solution) -> tuple[Cell, ...]:
    found = errors_of(TABLE_1, solution.values)
    worst = max(abs(each.relative_error) for each in found)
    values = solution.values
    label = f"{share} ({percent(values['computed_share'])})" if share == "free" else share
    return (
        label, len(solution.relative_errors), percent(worst), percent(_rms(found)),
        round(1000 * values[f"{H100} base_s"], 1), round(1000 * values[f"{H100} front_end_s"], 2),
    )  # fmt: skip
