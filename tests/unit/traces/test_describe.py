"""What a trace looks like is told exactly, and travels as JSON."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from broker.model import wire
from tests.unit.traces.files import BURSTGPT, BURSTGPT_3, MOONCAKE, burstgpt_at, written
from traces.describe import daily_correlation, describe
from traces.schema import TokenStatistics, TraceInfo


def test_rows_rates_and_tokens_of_a_small_trace_are_told(tmp_path: Path) -> None:
    info = describe(written(tmp_path, BURSTGPT))
    assert (info.format, info.rows, info.failed, info.bad, info.span_s) == ("BurstGPT", 3, 1, 0, 2.5)
    assert info.prompt == TokenStatistics(total=400, mean=200.0, p50=100, p95=300, p99=300, largest=300)
    assert info.output == TokenStatistics(total=60, mean=30.0, p50=20, p95=40, p99=40, largest=40)
    assert info.kinds == {"api": 1, "conversation": 1}
    assert info.peak_per_min == 3
    assert not info.has_sessions
    assert info.daily_correlation is None


def test_sessions_are_noticed(tmp_path: Path) -> None:
    assert describe(written(tmp_path, BURSTGPT_3)).has_sessions


def test_the_share_of_prompts_that_earlier_ones_had_is_told_where_the_trace_says(tmp_path: Path) -> None:
    """The second of two Mooncake requests has its first block of 512 tokens in common with the first one."""
    assert describe(written(tmp_path, MOONCAKE)).prefix_share == 512 / 1500
    assert describe(written(tmp_path, BURSTGPT)).prefix_share is None


def test_a_description_travels_as_json(tmp_path: Path) -> None:
    info = describe(written(tmp_path, BURSTGPT))
    assert wire.decode(TraceInfo, json.loads(json.dumps(wire.encode(info)))) == info


def test_skipped_rows_are_told(tmp_path: Path) -> None:
    info = describe(written(tmp_path, BURSTGPT + "oops\n"), skip_bad=True)
    assert (info.rows, info.bad, info.first_bad) == (3, 1, "line 5: 1 columns where the header has 6")


def test_burstiness_is_that_of_the_arrivals(tmp_path: Path) -> None:
    rng = random.Random(4)
    arrivals = [0.0]
    while arrivals[-1] < 3600:
        arrivals.append(arrivals[-1] + rng.gammavariate(0.25, 4.0))
    info = describe(written(tmp_path, burstgpt_at(arrivals)))
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert info.gap_cv == pytest.approx(statistics.pstdev(gaps) / statistics.fmean(gaps), rel=1e-9)
    minutes = [sum(minute * 60 <= at < minute * 60 + 60 for at in arrivals) for minute in range(60)]
    assert info.dispersion_per_min == pytest.approx(statistics.pvariance(minutes) / statistics.fmean(minutes))
    assert (info.dispersion_per_min or 0.0) > 2  # a gamma renewal process of CV 2 tends to 4


def test_a_load_that_follows_the_day_is_told_from_one_that_does_not() -> None:
    day = [round(100 + 80 * math.sin(hour * math.pi / 12)) for hour in range(24)]
    rng = random.Random(1)
    followed, blind = daily_correlation(day * 7), daily_correlation([rng.randrange(100) for _ in range(24 * 7)])
    assert followed is not None
    assert followed > 0.99
    assert blind is not None
    assert abs(blind) < 0.5
    assert daily_correlation(day) is None
    assert daily_correlation([5] * 100) is None
