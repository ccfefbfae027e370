"""Five vLLM set-ups on H100 (70B TP4 twice, 34B TP2, 12B TP2 and TP1): four fitted, the fifth predicted, in turn.

What four set-ups tell about a fifth goes through physics: the time to read the weights over an efficiency, a time per
layer for talking between GPUs, the floating-point operations of a prompt times a factor, and the front end. Four free
numbers for all set-ups together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accuracy.base import Cell, Report, Table, Tell, known, median_of, percent, shared_path, skill
from simulator.calibration.fit import compare, load_residuals, simulate_load
from simulator.calibration.measured_table import SetUp, read_table
from simulator.calibration.replay import Floats
from simulator.calibration.solve import Parameter, Solution, solve
from simulator.engine.profile import EngineProfile
from simulator.profiles.physics import floors

DATA = "calibration/vllm_h100_measured_low_load.csv"
PARAMETERS = (
    Parameter("efficiency", 0.85, 0.5, low=0.3, high=1.0),
    Parameter("s_per_layer", 2e-5, 3e-5),
    Parameter("prefill_factor", 1.5, 1.0, low=1.0),
    Parameter("front_end_s", 5e-3, 5e-3),
)
PUBLISHED = {"e2e": 0.067, "itl": 0.071, "ttft": 0.176}
"""BLIS (whose validation set this is): median errors over 36 held-out runs, five of which these are."""


def engine_of(set_up: SetUp, values: dict[str, float]) -> EngineProfile:
    """The engine that the four numbers make of a set-up; its limits come with its load."""
    least = floors(set_up.model, set_up.gpu, set_up.tensor_parallel)
    talking_layers = set_up.model.layers if set_up.tensor_parallel > 1 else 0
    token_s = least.s_per_prefill_token * values["prefill_factor"]
    return EngineProfile(
        name=set_up.name,
        base_s=least.base_s / values["efficiency"] + talking_layers * values["s_per_layer"],
        s_per_prefill_token=token_s,
        s_per_decode_sequence=token_s,
        s_per_kv_token=least.s_per_kv_token / values["efficiency"],
        max_num_seqs=128,
        max_num_batched_tokens=2048,
        block_size=16,
        num_blocks=16384,
        load_time_s=0.0,
        front_end_s=values["front_end_s"],
        provenance="fitted over set-ups",
    )


def fit_set_ups(set_ups: Sequence[SetUp]) -> Solution:
    def residuals(values: dict[str, float]) -> Floats:
        parts = [load_residuals(each.load, simulate_load(each.load, engine_of(each, values))) for each in set_ups]
        return np.concatenate(parts)

    return solve(residuals, PARAMETERS)


def nearest(of: SetUp, others: Sequence[SetUp]) -> SetUp:
    """The set-up with the most alike bytes of weights on each GPU, which its speed hangs on most."""

    def distance(other: SetUp) -> float:
        sizes = [each.model.weight_bytes / each.tensor_parallel for each in (of, other)]
        return abs(float(np.log(sizes[0] / sizes[1])))

    return min(others, key=distance)


def run(tell: Tell) -> Report:
    """Fit on four, predict the fifth, each in turn."""
    path = shared_path(DATA)
    if path is None:
        return Report("h100", skipped=f"needs the shared data set {DATA}")
    set_ups = read_table(path, path.read_text(encoding="utf-8"))
    rows: list[tuple[Cell, ...]] = []
    errors: dict[str, list[float]] = {}
    nulls: dict[str, list[float]] = {}
    for left_out in set_ups:
        tell(f"h100: predicting {left_out.name}")
        others = [each for each in set_ups if each is not left_out]
        solution = fit_set_ups(others)
        copied = nearest(left_out, others)
        engine = engine_of(left_out, solution.values)
        for residual, copy in zip(
            compare(left_out.load, simulate_load(left_out.load, engine)), copied.load.figures, strict=True
        ):
            metric = copy.metric.value
            null = copy.value / residual.measured - 1
            errors.setdefault(metric, []).append(residual.relative_error)
            nulls.setdefault(metric, []).append(null)
            rows.append((
                left_out.name, metric.upper(), round(1000 * residual.measured, 2), round(1000 * residual.simulated, 2),
                percent(residual.relative_error), percent(null),
            ))  # fmt: skip
    tell("h100: fitting all five")
    return Report(
        "h100",
        (
            Table(
                "h100_left_out",
                "Each set-up predicted from the other four (means, ms)",
                ("set-up", "metric", "measured", "predicted", "error", "null: copy nearest"),
                tuple(rows),
                n=len(rows),
                free=len(PARAMETERS),
                remarks=(
                    "E2E is nearly TTFT + 247 ITL: two of three numbers of each set-up are independent.",
                    "Which terms the model has was chosen with all five in sight; a prediction of a sixth set-up would "
                    "be somewhat worse. The nearest of the two 70B runs is the other 70B run, so that its null is hard "
                    "to beat.",
                ),
            ),
            _summary(errors, nulls),
            _values(fit_set_ups(set_ups)),
        ),
        headline={f"h100.{metric}.median": median_of(found) for metric, found in errors.items()},
    )


def _summary(errors: dict[str, list[float]], nulls: dict[str, list[float]]) -> Table:
    rows = []
    for metric, found in errors.items():
        error, null = median_of(found), median_of(nulls[metric])
        rows.append((
            metric.upper(), len(found), percent(error), percent(max(map(abs, found))), percent(null),
            round(skill(error, null), 2), percent(PUBLISHED[metric]),
        ))  # fmt: skip
    return Table(
        "h100_summary",
        "Over the five predictions",
        ("metric", "n", "median error", "worst", "null's median", "skill", "BLIS, published median"),
        tuple(rows),
        n=sum(len(found) for found in errors.values()),
        free=len(PARAMETERS),
        remarks=("BLIS' medians are over 36 runs of more loads; these five low loads are the easier part of them.",),
    )


def _values(solution: Solution) -> Table:
    rows = tuple(
        (name, f"{value:.3g}", known(solution.relative_errors[name])) for name, value in solution.values.items()
    )
    return Table(
        "h100_values",
        "The four numbers fitted to all five set-ups",
        ("number", "value", "standard error"),
        rows,
        n=solution.residuals.size,
        free=len(rows),
        remarks=(f"Residual {percent(solution.rms)} (root mean square). One load for each set-up: how time grows with "
                 "the batch comes from physics, not from these data.",),
    )  # fmt: skip
