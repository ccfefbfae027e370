"""What is counted between two summaries is what counting one by one gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.sketch import BUCKETS, SMALLEST, Sketch
from simulator.engine import layout
from simulator.engine.ticks import array_to_ticks
from simulator.ledger import ABANDONED, CUT, FINISHED, REJECTED, Ledger
from simulator.tally import FIRST_TOKEN, INTER_TOKEN, OUTPUT, PROMPT, QUEUE_AGE, Tally

MODELS = 3
ORIGIN = 1_000
AGES = st.one_of(
    st.floats(0.0, 1e6), st.integers(0, BUCKETS).map(lambda bucket: SMALLEST * 2.0 ** (bucket / 8)), st.just(0.0)
)
REQUEST = st.tuples(
    st.integers(0, MODELS - 1), st.integers(1, 9000), st.integers(1, 3000), st.sampled_from(["waits", "begun", "done"]),
    st.floats(0.0, 900.0), st.floats(0.0, 900.0),
)  # fmt: skip
Request = tuple[int, int, int, str, float, float]


def counted(requests: list[Request], now: float) -> tuple[Ledger, Tally]:
    """All arrive at second ``ORIGIN``; the first token comes after the fifth of each, the last after the sixth."""
    ledger = Ledger()
    columns = list(zip(*requests, strict=True)) or [()] * 6
    models, prompts, outputs = (np.array(column, np.int64) for column in columns[:3])
    ledger.append(np.full(len(requests), float(ORIGIN)), prompts, outputs, models, 0)
    tally = Tally(MODELS, ledger)
    tally.arrive(len(requests))
    begun = [row for row, request in enumerate(requests) if request[3] != "waits"]
    done = [row for row in begun if requests[row][3] == "done"]
    first_tokens = np.zeros(len(begun), layout.FIRST_TOKEN)
    first_tokens["request"] = begun
    first_tokens["at"] = array_to_ticks(np.array([ORIGIN + requests[row][4] for row in begun], float), ORIGIN)
    ends = np.zeros(len(done), layout.COMPLETION)
    ends["request"] = done
    end_at = [ORIGIN + requests[row][4] + requests[row][5] for row in done]
    ends["at"] = array_to_ticks(np.array(end_at, float), ORIGIN)
    tally.take(first_tokens, ends, ORIGIN)
    tally.look(now)
    return ledger, tally


@given(st.lists(REQUEST, max_size=30), AGES)
def test_numbers_and_sketches_are_those_of_the_requests_one_by_one(requests: list[Request], age_s: float) -> None:
    now = ORIGIN + age_s
    ledger, tally = counted(requests, now)
    sketches = tally.take_sketches()
    for model in range(MODELS):
        rows = [row for row, request in enumerate(requests) if request[0] == model]
        state = {row: requests[row][3] for row in rows}
        begun = [row for row in rows if state[row] != "waits"]
        done = [row for row in rows if state[row] == "done"]
        waiting = [row for row in rows if state[row] == "waits"]
        streamed = [row for row in done if requests[row][2] > 1]
        gaps = [(ledger.ended_at[r] - ledger.first_token_at[r]) / (requests[r][2] - 1) for r in streamed]
        assert sketches[QUEUE_AGE][model] == Sketch.of([now - ORIGIN] * len(waiting))
        assert sketches[FIRST_TOKEN][model] == Sketch.of([ledger.first_token_at[row] - ORIGIN for row in begun])
        assert sketches[INTER_TOKEN][model] == Sketch.of(gaps)
        assert sketches[PROMPT][model] == Sketch.of([requests[row][1] for row in rows])
        assert sketches[OUTPUT][model] == Sketch.of([requests[row][2] for row in done])
        numbers = (tally.arrived, tally.finished, tally.waiting, tally.open)
        assert [int(number[model]) for number in numbers] == [
            len(rows), len(done), len(waiting), len(rows) - len(done)
        ]  # fmt: skip
        assert (ledger.status[done] == FINISHED).all()


def test_a_summary_takes_the_sketches_and_whoever_waits_stays() -> None:
    ledger, tally = counted([(0, 10, 5, "waits", 0.0, 0.0), (1, 10, 5, "done", 1.0, 1.0)], ORIGIN + 2.0)
    assert tally.take_sketches()[PROMPT][1] == Sketch.of([10])
    tally.begin_anew()
    ledger.append(np.array([ORIGIN + 3.0]), 7, 7, 0, 0)
    tally.arrive(3)
    tally.look(ORIGIN + 4.0)
    sketches = tally.take_sketches()
    assert sketches[QUEUE_AGE][0] == Sketch.of([4.0, 1.0])
    assert (sketches[PROMPT][0], sketches[PROMPT][1]) == (Sketch.of([7]), Sketch())
    assert (tally.waiting.tolist(), tally.oldest[0], tally.arrived.tolist()) == ([2, 0, 0], ORIGIN, [1, 0, 0])


@pytest.mark.parametrize(("status", "finished", "failed"), [(CUT, 0, 1), (REJECTED, 0, 1), (ABANDONED, 1, 0)])
def test_who_failed_or_left_waits_no_more(status: int, finished: int, failed: int) -> None:
    _, tally = counted([(2, 10, 5, "waits", 0.0, 0.0)] * 2, ORIGIN + 1.0)
    tally.close(np.array([0]), ORIGIN + 1.0, status)
    tally.look(ORIGIN + 2.0)
    assert (tally.finished[2], tally.failed[2], tally.open[2], tally.waiting[2]) == (finished, failed, 1, 1)
