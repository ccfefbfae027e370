"""``sweep.yaml`` says what is wrong with it, where, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.app.settings.sweep import SweepSettings, read_sweep
from tests.unit.settings.files import refusal, written
from traces.conditions import MetricFaults

SWEEP = """
    policies:
      rules:
        file: policies.yaml
        grid: {models.chat.max: [2, 4]}
        knob: models.chat.max
    traces:
      calm:
        source: {kind: generated, profile: burstgpt1_conv, rate: 1}
        duration: 5m
"""


def settings_of(path: Path) -> SweepSettings:
    return read_sweep(path)[0]


def test_a_small_sweep_is_read(tmp_path: Path) -> None:
    settings = settings_of(written(tmp_path, SWEEP))
    assert settings.policies["rules"].file == tmp_path / "policies.yaml"
    assert settings.policies["rules"].grid == {"models.chat.max": [2, 4]}
    assert settings.traces["calm"].duration_s == 300.0
    assert settings.seeds == [1]
    assert settings.goal.attainment == 0.99


def test_runs_take_place_as_the_options_of_simulate_would_say_it(tmp_path: Path) -> None:
    said = "{routing: prefix-affine, cached_share: 0.25, metric_loss: 0.1, metric_delay: 2s}"
    text = SWEEP.replace("    traces:", f"    run: {said}\n    cell_time_limit: 10m\n    traces:")
    settings = settings_of(written(tmp_path, text))
    assert (settings.run.routing, settings.run.cached_share) == ("prefix-affine", 0.25)
    assert settings.run.metrics == MetricFaults(loss=0.1, report_loss=0.1, delay_s=2.0)
    assert settings.cell_time_limit_s == 600.0
    assert settings_of(written(tmp_path, SWEEP)).run.metrics is None, "then a scenario may say it"


TUNED = """
    policies: {rules: {file: policies.yaml}}
    tune:
      first: {source: {kind: trace, path: a.csv, window: 0s..1h}}
    report:
      second: {source: {kind: trace, path: %s, window: %s}}
"""


@pytest.mark.parametrize(("path", "window"), [("b.csv", "0s..1h"), ("a.csv", "1h..2h"), ("./a.csv", "90m..2h")])
def test_another_trace_or_another_window_may_be_held_out(path: str, window: str, tmp_path: Path) -> None:
    assert settings_of(written(tmp_path, TUNED % (path, window))).report


def drawn(values: str) -> str:
    """Draws before the knob."""
    return f"samples: 2\n        random: {{{values}}}\n        knob:"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("knob: models.chat.max", "knob: models.chat.min", "models.chat.min' is not varied; varied: models.chat.max"),
        ("[2, 4]", "[]", "needs at least one value"),
        ("[2, 4]", "[2, 2]", "2 stands twice"),
        ("[2, 4]", "[{a: 1}]", "is not a plain value"),
        ("knob:", "samples: 3\n        knob:", "counts draws, and nothing is drawn"),
        ("knob:", drawn("x: {kind: uniform, from: 2, to: 1}"), "1 is not more than from, which is 2"),
        ("knob:", drawn("x: {kind: uniform, from: -1e308, to: 1e308}"), "is too little; the least is -1e+300"),
        ("knob:", drawn("x: {kind: log_uniform, from: 1, to: 1e308}"), "is too much; the most is 1e+300"),
        ("[2, 4]", "[2, 1e999]", "is larger than any number that a file can hold"),
        ("knob:", drawn("x: {kind: uniform, from: 1, to: 2}").replace("samples: 2", ""), "missing: how many draws?"),
        ("knob:", drawn("models.chat.max: {kind: choice, values: [1]}"), "stands in grid too"),
        ("knob:", drawn("x: {kind: log_uniform, from: 0, to: 1}"), "0 has no logarithm"),
        ("        duration: 5m\n", "", "missing: generated requests never end"),
        ("duration: 5m", "duration: 1e15", "is too much; the most is"),
        ("duration: 5m", "duration: 3650d", None),
        ("rate: 1}", "rate: 1e12}", "is too much; the most is 100000"),
        ("rate: 1}", "rate: 1, prompt_scale: 1e9}", "is too much; the most is 1000"),
        ("rate: 1}", "curve: [{at: 0s, rate: 1}, {at: 1e15, rate: 1}]}", "is too much; the most is"),
        ("rate: 1}", "curve: [{at: 0s, rate: 1}, {at: 1m, rate: 1e12}]}", "is too much; the most is 100000"),
        ("rate: 1}\n        duration: 5m", "rate: 5000}\n        duration: 30d", "are more than 1,000,000,000"),
        ("traces:", "tune:", None),
        ("traces:", "report:", "give either traces, or tune (and report)"),
        ("    traces:", "    report: {x: {source: {kind: trace, path: a}}}\n    traces:", "was held out from tune"),
        ("    traces:", "    seeds: [1, 1]\n    traces:", "a seed stands twice"),
        ("    traces:", "    goals: {}\n    traces:", "unknown field; did you mean goal?"),
        ("    traces:", "    goal: {attainment: 1.5}\n    traces:", "is too much"),
        ("    traces:", "    run: {routing: random}\n    traces:", "'random' is not known here"),
        ("    traces:", "    run: {metric_loss: 1.5}\n    traces:", "is too much; the most is 1"),
        ("    traces:", "    run: {cached_shares: 0.5}\n    traces:", "unknown field; did you mean cached_share?"),
        ("    traces:", "    cell_time_limit: 0s\n    traces:", "is too little; it must be more than 0"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_line(old: str, new: str, expected: str | None, tmp_path: Path) -> None:
    assert old in SWEEP
    path = written(tmp_path, SWEEP.replace(old, new))
    if expected is None:
        settings = settings_of(path)
        assert [*settings.traces, *settings.tune] == ["calm"]
        return
    told = refusal(settings_of, path)
    assert any(expected in problem for problem in told), told
    assert all(problem.partition(":")[0].isdecimal() for problem in told)


def test_a_trace_is_tuned_on_or_reported_on_but_never_both(tmp_path: Path) -> None:
    [told] = refusal(settings_of, written(tmp_path, TUNED % ("a.csv", "30m..2h")))
    assert "is tuned on as tune.first; name another trace, or another window" in told
