"""A gateway's own log becomes a profile that tells its load and none of its rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from broker.model import wire
from broker.model.errors import ConfigError, TraceError
from cli.output import Exit
from tests.support.command_line import tidegate
from tests.unit.traces.files import burstgpt_at, written
from traces.fit import fit_file, fit_profile, hour_levels, hourly_shape
from traces.generate import LoadProfile
from traces.options import RequestKind
from traces.profiles import read_profile
from traces.randomness import stream
from traces.readers import open_trace
from traces.schema import TraceRequest

MONDAY_AT = 1_704_067_200.0  # 2024-01-01 00:00 UTC


def log_line(at: float, **fields: object) -> str:
    return json.dumps({"at": at, "model": "chat", "prompt_tokens": 100, "output_tokens": 20, **fields}) + "\n"


def gateway_log(folder: Path, days: int = 15) -> Path:
    """One request an hour, ten from eight to ten on Tuesdays; three tenants, one of them with few requests."""
    lines = []
    for hour in range(days * 24):
        tuesday = hour // 24 % 7 == 1 and hour % 24 in (8, 9)
        for number in range(10 if tuesday else 1):
            tenant = "rare" if hour < 5 and not number else "alice" if hour % 4 else "bob"
            lines.append(log_line(MONDAY_AT + hour * 3600 + number * 60, tenant=tenant, session=f"s{hour}"))
    return written(folder, "".join(lines), "requests.jsonl")


def test_a_request_log_is_read_with_models_tenants_and_sessions(tmp_path: Path) -> None:
    path = written(tmp_path, log_line(5.0, tenant="a", session="x") + log_line(6.5, status="failed", output_tokens=0))
    trace = open_trace(path)
    first, second = trace
    assert trace.format.name == "request log"
    assert (first.model, first.tenant, first.prompt_tokens, first.output_tokens) == ("chat", "a", 100, 20)
    assert (second.arrival_s, second.tenant, second.session, second.failed) == (1.5, None, None, True)
    assert first.session is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"tenant": 5}, r":1:\d+: tenant: 5 is not text"), ({"prompt_tokens": -1}, r":1:\d+: prompt_tokens: '-1' is neg")],
)
def test_a_bad_line_of_a_request_log_is_named(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        list(open_trace(written(tmp_path, log_line(1.0, **fields))))


def test_the_rate_is_fitted_by_hour_of_the_week_and_tenants_lose_their_names(tmp_path: Path) -> None:
    profile = fit_file(gateway_log(tmp_path), name="ours", provenance="test", hourly=None)
    assert len(profile.tenants) == 2
    assert profile.tenants[0] > profile.tenants[1]
    assert "alice" not in json.dumps(wire.encode(profile))
    by_hour = hourly_shape([10.0 if hour // 24 % 7 == 1 and hour % 24 in (8, 9) else 1.0 for hour in range(336)])
    assert len(by_hour) == 168
    assert int(np.argmax(by_hour)) == 24 + 8


def test_a_log_that_begins_in_midweek_has_its_week_turned_to_monday() -> None:
    counts = [float(hour % 168 == 0) for hour in range(400)]
    assert hourly_shape(counts, MONDAY_AT + 30 * 3600)[30] == 168.0


def test_sessions_are_fitted_by_what_each_turn_adds_to_what_was_said() -> None:
    """Three turns a session, each with 20 tokens of answer and 30 new ones: 100, 150 and 200 tokens of prompt."""
    rows = [
        TraceRequest(10_000.0 * session + 60.0 * turn, 100 + 50 * turn, 20, session=session)
        for session in range(200)
        for turn in range(3)
    ]
    sessions = fit_profile(rows, name="talk", provenance="test").sessions
    assert sessions is not None
    assert (sessions.turns, set(sessions.added.tokens)) == (3.0, {30.0})
    assert sessions.pause_median_s == pytest.approx(60.0, abs=1.0)
    assert sessions.longest_tokens == 256


def test_no_single_request_shows_in_a_profile() -> None:
    """One prompt of an odd length, the longest of all: ten neighbours are averaged, so it is not to be read off."""
    random = stream(1, "test")
    rows = [TraceRequest(float(n), int(random.integers(90, 110)), 20) for n in range(1000)]
    rows[500] = TraceRequest(500.0, 77_777, 20)
    profile = fit_profile(rows, name="odd", provenance="test")
    assert profile.prompt.tokens[-1] == pytest.approx((77_777 + 9 * 109) / 10, rel=0.01)
    assert profile.prompt.tokens[-2] < 77_777 / 2


def test_the_correlation_of_a_long_trace_is_that_of_a_sample() -> None:
    random = stream(2, "test")
    rows = [TraceRequest(float(n), int(p), int(p) + 5) for n, p in enumerate(random.integers(1, 2000, 300_000))]
    assert fit_profile(rows, name="long", provenance="test").correlation == pytest.approx(1.0, abs=1e-3)


def test_hours_without_a_day_are_fitted_as_levels() -> None:
    counts = [0.0] * 30 + [90.0] * 10 + [0.0] * 40 + [50.0] * 20
    levels = hour_levels(counts)
    assert levels is not None
    assert (levels.relative[0], levels.persistence > 0.8) == (0.0, True)
    assert hour_levels(counts[:47]) is None


def test_the_command_prints_a_profile_that_can_be_read_again(tmp_path: Path) -> None:
    trace = written(tmp_path, burstgpt_at(float(n) for n in range(200)))
    hourly = written(
        tmp_path, "day,hour,all\n" + "".join(f"{n // 24},{n % 24},{1 + n % 24}\n" for n in range(72)), "hourly"
    )
    words: list[str | Path] = [
        "trace",
        "fit",
        trace,
        "--name",
        "mine",
        "--provenance",
        "hand-written",
        "--hourly",
        hourly,
    ]
    result = tidegate(*words)
    assert result.exit_code == Exit.OK, result.output
    profile = wire.decode(LoadProfile, json.loads(result.stdout))
    assert (profile.name, profile.requests, len(profile.hourly_shape)) == ("mine", 200, 24)
    assert read_profile(written(tmp_path, result.stdout, "mine.json")) == profile


def test_the_command_says_why_it_cannot(tmp_path: Path) -> None:
    result = tidegate("trace", "fit", tmp_path / "absent", "--name", "x", "--provenance", "y")
    assert result.exit_code == Exit.USAGE
    assert "no such file" in result.output
    few = written(tmp_path, burstgpt_at([1.0, 2.0]))
    assert "too few" in tidegate("trace", "fit", few, "--name", "x", "--provenance", "y").output
    with pytest.raises(TraceError, match="too few"):
        fit_file(few, name="x", provenance="y", kind=RequestKind.API)
    with pytest.raises(ConfigError, match="is not what `tidegate trace fit` writes"):
        read_profile(few)
