"""The control plane knows nothing of the future: what comes after t changes no decision up to t."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import wire
from broker.model.ports import StepRecord
from tests.support.shared_data import shared_path
from tests.support.simulated import SLOW_ENGINE, SmallRun, workloads
from traces.readers import open_trace
from traces.schema import TraceRequest, replayable

TAIL_S = 20.0


def simulated(requests: Iterable[TraceRequest]) -> tuple[SmallRun, dict[int, float]]:
    """The run, and when each request had its last token (in seconds of the trace)."""
    run = SmallRun(tail_s=TAIL_S)
    run.run(requests)
    ends = run.simulation.outcomes.end_s.tolist()
    return run, {index: end_s for index, end_s in enumerate(ends) if not math.isnan(end_s)}


def steps_until(run: SmallRun, second: float) -> list[str]:
    """Everything that was observed, decided and written up to ``second`` of the trace, as bytes."""
    return [wire.dumps(record) for record in _until(run.store.steps, run.start_at + second)]


def _until(steps: Sequence[StepRecord], now: float) -> list[StepRecord]:
    return [record for record in steps if record.now <= now]


def both_reach(second: float, *runs: Sequence[TraceRequest]) -> float:
    """A run ends some time after its last arrival; before that both can be compared."""
    return min(second, *(requests[-1].arrival_s + TAIL_S for requests in runs if requests))


@st.composite
def perturbed(draw: st.DrawFn) -> tuple[list[TraceRequest], list[TraceRequest], float]:
    """A workload, the same until a time, and that time."""
    requests = draw(workloads(most=40))
    second = draw(st.floats(0.0, requests[-1].arrival_s))
    past = [request for request in requests if request.arrival_s <= second]
    future = [request for request in requests if request.arrival_s > second]
    match draw(st.sampled_from(("cut", "thinned", "longer", "other"))):
        case "cut":
            future = []
        case "thinned":
            future = future[::2]
        case "longer":
            future = [replace(r, prompt_tokens=r.prompt_tokens + 300, output_tokens=500) for r in future]
        case _:
            future = [TraceRequest(second + 0.01 * n + 1e-3, 30, 200) for n in range(30)]
    return requests, past + future, second


@settings(max_examples=40)
@given(perturbed())
def test_what_comes_after_t_changes_nothing_up_to_t(
    case: tuple[list[TraceRequest], list[TraceRequest], float],
) -> None:
    requests, others, second = case
    whole, _ = simulated(requests)
    changed, _ = simulated(others)
    until = both_reach(second, requests, others)
    assert steps_until(whole, until) == steps_until(changed, until)


@settings(max_examples=40)
@given(workloads(most=40), st.floats(0.0, 1.0), st.integers(1, 500))
def test_nobody_reads_how_long_an_unfinished_answer_will_be(
    requests: list[TraceRequest], share: float, more: int
) -> None:
    """The true output length is the simulator's secret until the last token is out."""
    second = share * (requests[-1].arrival_s + TAIL_S)
    whole, ends = simulated(requests)
    longer = [
        replace(request, output_tokens=request.output_tokens + more) if ends[index] > second else request
        for index, request in enumerate(requests)
    ]
    changed, _ = simulated(longer)
    assert steps_until(whole, second) == steps_until(changed, second)


@pytest.mark.parametrize(
    "trace", ["traces/llm/azure2023_conv.csv.gz", "traces/llm/burstgpt1_first400.csv"], ids=["azure", "burstgpt"]
)
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_real_trace_cut_or_altered_after_t_decides_the_same_up_to_t(trace: str, share: float) -> None:
    most = SLOW_ENGINE.kv_capacity_tokens // 2
    requests = [
        replace(request, prompt_tokens=min(request.prompt_tokens, most), output_tokens=min(request.output_tokens, 50))
        for request in islice(replayable(open_trace(shared_path(trace))), 200)
        if request.arrival_s < 300.0
    ]
    second = share * requests[-1].arrival_s
    past = [request for request in requests if request.arrival_s <= second]
    altered = [replace(r, output_tokens=3 * r.output_tokens) for r in requests if r.arrival_s > second]
    whole, _ = simulated(requests)
    until = both_reach(second, requests, past)
    reference = steps_until(whole, until)
    assert len(reference) > 20
    for others in (past, past + altered):
        changed, _ = simulated(others)
        assert steps_until(changed, until) == reference
