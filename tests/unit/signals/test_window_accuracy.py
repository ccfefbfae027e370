"""The window against the recording of a real vLLM: what it says is close to what the clients saw."""

from __future__ import annotations

import pytest

from benchmarks.window_accuracy import PhaseErrors, compare, read_recording
from tests.support.shared_data import shared_path


@pytest.fixture(scope="module")
def rows() -> list[PhaseErrors]:
    folder = shared_path("vllm/recording_v0.32.0_requests.jsonl.gz").parent
    return compare(read_recording(folder))


def test_every_phase_is_compared_by_both_sources(rows: list[PhaseErrors]) -> None:
    assert [row.source for row in rows] == ["engine"] * 8 + ["gateway"] * 8
    assert all({"queue_age_s", "requests_running", "arrival_rate_per_s"} <= row.errors.keys() for row in rows)


@pytest.mark.parametrize(
    ("signal", "absolute", "relative"),
    [
        ("queue_age_s", 0.02, 0.3),
        ("requests_waiting", 0.2, 0.3),
        ("arrival_rate_per_s", 0.1, 0.05),
        ("prompt_token_rate_per_s", 5.0, 0.1),
        ("generation_token_rate_per_s", 5.0, 0.09),
        ("ttft_p50_s", 0.01, 0.2),
        ("ttft_p95_s", 0.01, 0.35),
    ],
)
def test_the_mean_absolute_error_stays_small_in_every_phase(
    rows: list[PhaseErrors], signal: str, absolute: float, relative: float
) -> None:
    for row in rows:
        if signal in row.errors:
            error = row.errors[signal]
            assert error["mae"] <= absolute + relative * error["truth"], (row.source, row.phase)


def test_the_estimated_queue_age_has_no_bias_under_overload(rows: list[PhaseErrors]) -> None:
    overload = next(row for row in rows if row.source == "engine" and "14/s" in row.phase)
    assert abs(overload.errors["queue_age_s"]["bias"]) <= 0.1 * overload.errors["queue_age_s"]["truth"]
