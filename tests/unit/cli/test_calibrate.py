"""``tidegate calibrate``: from files to a profile that loads again, and to words about what is not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.output import Exit
from simulator.calibration.replay import replay
from simulator.profiles.document import read_profile
from simulator.profiles.profile import Method
from tests.support.command_line import tidegate
from tests.support.measured import TRUE_ENGINE, bench_result, poisson_requests, request_log


@pytest.fixture
def benches(tmp_path: Path) -> list[Path]:
    paths = []
    for rate in (1.0, 8.0):
        requests = poisson_requests(rate, 40, seed=int(rate))
        path = tmp_path / f"bench-{rate:g}.json"
        path.write_text(json.dumps(bench_result(requests, replay(TRUE_ENGINE, requests)[0])))
        paths.append(path)
    return paths


def test_a_profile_is_written_that_loads_again_with_its_provenance(benches: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    result = tidegate("calibrate", *benches, "--name", "mine", "--out", out, "--max-num-seqs", "64")
    assert result.exit_code == 0, result.output
    assert "residuals" in result.output
    assert "front_end_s_per_token is not known" in result.output
    profile = read_profile(out)
    assert profile.name == "mine"
    assert profile.engine.base_s == pytest.approx(TRUE_ENGINE.base_s, rel=0.15)
    assert profile.coefficients["base_s"].method is Method.FITTED
    assert "bench-8.json (vllm bench serve)" in profile.summary
    assert profile.valid is not None
    assert profile.valid.prompt_tokens is not None
    assert 20 <= profile.valid.prompt_tokens.low < 200 < profile.valid.prompt_tokens.high <= 1500


def test_json_holds_every_residual_and_what_was_held(benches: list[Path]) -> None:
    result = tidegate("calibrate", *benches, "--hold", "s_per_kv_token", "--like", "h100-mistral-small-24b", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert len(told["residuals"]) == 12
    assert {each["name"]: each["reason"] for each in told["held"]}["s_per_kv_token"] == "held as asked"
    assert told["profile"]["load_time"]["median_s"] == 82.0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(("--hold", "speed"), "no coefficient speed; there are base_s", id="unknown coefficient"),
        pytest.param(("--like", "nothing"), "no engine profile 'nothing'", id="unknown profile"),
        pytest.param(("--num-blocks", "2"), "has 32 in all", id="too small a cache"),
    ],
)
def test_options_that_cannot_be_used_are_told_without_a_traceback(
    options: tuple[str, ...], problem: str, benches: list[Path]
) -> None:
    result = tidegate("calibrate", *benches, *options)
    assert result.exit_code == Exit.USAGE
    assert problem in result.output
    assert "Traceback" not in result.output


def test_a_cache_of_blocks_of_unknown_size_says_what_was_assumed(tmp_path: Path) -> None:
    """The floors' name and a number of tokens told nobody that 16 tokens in a block were a guess."""
    requests = poisson_requests(1.0, 40)
    told = request_log(requests, replay(TRUE_ENGINE, requests)[0], server="--num-gpu-blocks-override 4")
    (log := tmp_path / "requests.jsonl").write_text(told)
    result = tidegate("calibrate", log)
    assert result.exit_code == Exit.USAGE
    assert "(block size unknown, took 16; give a page of the engine's /metrics, or --block-size" in _joined(
        result.output
    )


def _joined(text: str) -> str:
    return " ".join(text.split())
