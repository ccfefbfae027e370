"""``scenario.yaml``: read, checked, and turned into what several models are asked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker.app.settings.scenario import load_scenario
from broker.model.errors import ConfigErrors
from tests.unit.settings.files import EXAMPLES
from tests.unit.traces.files import BURSTGPT, burstgpt_at
from traces.blocks import joined
from traces.clients import ClientRules, Ending
from traces.conditions import PERFECT, MetricFaults
from traces.scenario import Scenario
from traces.schema import Requests

HEAD = "duration: 10m\nmodels:\n  chat:\n    loads:\n      people:\n"


def scenario(folder: Path, text: str) -> Scenario:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return load_scenario(path)


def counts(requests: Requests) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for block in requests.blocks():
        for code, count in zip(*np.unique(block.model, return_counts=True), strict=True):
            name = requests.models.name(int(code))
            found[name] = found.get(name, 0) + int(count)
    return found


def test_a_scenario_is_named_by_text_too(tmp_path: Path) -> None:
    assert load_scenario(str(EXAMPLES / "scenario.yaml")) == load_scenario(EXAMPLES / "scenario.yaml")


def test_the_example_asks_its_models_for_a_day() -> None:
    example = load_scenario(EXAMPLES / "scenario.yaml")
    requests = example.requests(seed=1)
    at = joined(list(requests.blocks())).arrival_s
    assert (np.diff(at) >= 0).all()
    assert 86_400 * 0.99 < at[-1] < 86_400
    found = counts(requests)
    assert set(found) == {"chat", "embed"} == set(example.models)
    assert found["embed"] == pytest.approx(86_400 * (8 * 1.6 + 10 * 3 + 6 * 1.6) / 24, rel=0.03)
    assert set(requests.tenants.names) >= {"physics", "library", "visitors"}


def test_a_load_does_not_move_when_another_is_added(tmp_path: Path) -> None:
    first = HEAD + "        source: {kind: generated, profile: mooncake_conv, rate: 5}\n"
    more = first + "      others:\n        source: {kind: generated, profile: azure2023_conv, rate: 2}\n"
    alone = joined(list(scenario(tmp_path, first).requests(3).blocks()))
    together = joined(list(scenario(tmp_path, more).requests(3).blocks()))
    people = together.take(np.isin(together.session, alone.session) & (together.session >= 0))
    assert people.arrival_s.tolist() == alone.arrival_s.tolist()
    assert people.prompt_tokens.tolist() == alone.prompt_tokens.tolist()


def test_a_trace_is_windowed_scaled_and_named_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(burstgpt_at(float(n) for n in range(3000)))
    source = "source: {kind: trace, path: trace.csv, window: 5m..8m, rate_scale: 2, scale_method: correlated}"
    requests = scenario(tmp_path, HEAD + f"        {source}\n").requests(1)
    assert counts(requests) == {"chat": pytest.approx(360, abs=2)}


def test_kinds_and_recorded_models_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(BURSTGPT)
    for choice, prompts in (("only: conversation", [100]), ("recorded_model: ChatGPT", [100, 300])):
        requests = scenario(tmp_path, HEAD + f"        source: {{kind: trace, path: trace.csv, {choice}}}\n").requests(
            1
        )
        assert [request.prompt_tokens for request in requests] == prompts


def test_clients_of_a_load_react_by_its_rules(tmp_path: Path) -> None:
    text = HEAD + "        source: {kind: generated, profile: mooncake_conv, rate: 1}\n"
    text += "        clients: {patience: 15s, retries: 2, retry_share: 0.5, retry_pause: 3s}\n"
    found = scenario(tmp_path, text)
    assert found.loads[0].rules == ClientRules(15.0, 0.5, 2, 0.5, 3.0)
    (load,) = found.reacting(seed=1)
    opening = next(iter(load.clients.openings(load.scripts)))
    assert (load.model, 1 < opening.patience_s < 200) == ("chat", True)
    assert replace(found, loads=()).models == ()
    assert load.clients.after(opening, Ending.FAILED, 1.0) in (None, load.clients.after(opening, Ending.FAILED, 1.0))


def test_measurements_reach_the_broker_at_once_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    head = HEAD + "        source: {kind: generated, profile: azure2023_conv}\n"
    assert scenario(tmp_path, head).metrics == PERFECT
    faulty = scenario(
        tmp_path, head + "metrics: {loss: 0.1, report_loss: 0.2, delay: 500ms, outage_every: 1h, outage: 2m}\n"
    )
    assert faulty.metrics == MetricFaults(0.1, 0.2, 0.5, outage_every_s=3600.0, outage_s=120.0)


WRONG = {
    "a rate that fills the memory": (
        "kind: generated, profile: burstgpt1_conv, rate: 1.0e12",
        r"source\.rate: 1000000000000\.0 is too much; the most is 100000",
    ),
    "prompts that nothing holds": (
        "kind: generated, profile: burstgpt1_conv, rate: 1, prompt_scale: 1.0e9",
        r"source\.prompt_scale: 1000000000\.0 is too much; the most is 1000",
    ),
    "an unknown profile": ("kind: generated, profile: nobody", r"source.profile: no load profile 'nobody'; there are"),
    "two profiles": (
        "kind: generated, profile: mooncake_conv, profile_file: x",
        "source.profile: name either `profile` or `profile_file`",
    ),
    "a file as a profile's name": (
        "kind: generated, profile: ./ours.json",
        r"source.profile: .*ours.json.* a file goes into `profile_file`",
    ),
    "no such file": ("kind: generated, profile_file: nope.json", r"source.profile_file: .*cannot be read"),
    "a day that is not known": (
        "kind: generated, profile: azure2023_conv, follow: true",
        "source.follow: .*knows no day",
    ),
    "a curve that goes back": (
        "kind: generated, profile: azure2023_conv, curve: [{at: 0s, rate: 1}, {at: 0s, rate: 2}]",
        "source.curve: the times of a rate curve must rise",
    ),
    "a curve and a rate": (
        "kind: generated, profile: azure2023_conv, rate: 2, curve: [{at: 0s, rate: 1}, {at: 9s, rate: 2}]",
        "source.curve: stands in place of",
    ),
    "a window that is none": ("kind: trace, path: x, window: yesterday", "source.window: 'yesterday' is not a window"),
    "an unknown kind": ("kind: tracee, path: x", "source.kind: 'tracee' is not known here; did you mean trace"),
    "an unknown field": ("kind: trace, path: x, rate: 3", "source.rate: unknown field; known: .*rate_scale"),
}


@pytest.mark.parametrize(("source", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_by_line_and_field(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        scenario(tmp_path, HEAD + f"        source: {{{source}}}\n")
    assert re.search(rf"scenario\.yaml:6: models\.chat\.loads\.people\.{message}", str(caught.value))


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        ("1.0e15", "duration: 1000000000000000.0 is too much; the most is"),
        ("3650d", "3650d at 100 requests per second are more than 1,000,000,000; take a lower rate, or less time"),
    ],
)
def test_a_scenario_that_nobody_would_wait_for_is_refused(duration: str, words: str, tmp_path: Path) -> None:
    text = HEAD.replace(HEAD.splitlines()[0], f"duration: {duration}", 1)
    with pytest.raises(ConfigErrors) as caught:
        scenario(tmp_path, text + "        source: {kind: generated, profile: burstgpt1_conv, rate: 100}\n")
    assert "scenario.yaml:1: duration" in str(caught.value)
    assert words in str(caught.value)
