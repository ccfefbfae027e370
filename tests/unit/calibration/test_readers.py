"""Files of measurements: what is read from each kind, and what is refused with its place."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from broker.model.errors import ConfigError
from simulator.calibration.bench_serve import read_bench
from simulator.calibration.fit import Metric, Statistic, fit_profile
from simulator.calibration.measured_table import read_table
from simulator.calibration.measurements import base_engine, profile_of, read_measurements
from simulator.calibration.recording import gauges_of, read_metrics_history, read_requests
from simulator.calibration.replay import replay
from simulator.profiles.profile import Method
from tests.support.measured import DETAILS, TRUE_ENGINE, bench_result, poisson_requests, request_log

REQUESTS = poisson_requests(5.0, 40)
TIMES, _ = replay(TRUE_ENGINE, REQUESTS)
DETAILED = bench_result(REQUESTS, TIMES)
SUMMARY = {name: value for name, value in DETAILED.items() if name not in DETAILS}
HERE = Path("bench.json")
TABLE = (
    "exp_id,model,hardware,tp,params,layers,kv_heads,head_dim,max_num_batched_tokens,max_num_seqs,kv_blocks_of_16,"
    "uncached_prompt_tokens,cached_prefix_tokens,output_tokens,request_rate_per_s,ttft_mean_ms,itl_mean_ms,e2e_mean_ms\n"
    "7,org/Small,H100,1,1e9,16,8,64,2048,64,9000,300,100,50,2.0,20.0,5.0,265.0\n"
    "8,org/Small,H100,1,1e9,16,8,64,2048,64,9000,300,100,50,9.0,25.0,6.0,319.0\n"
    "9,org/Large,H100,4,7e10,80,8,128,2048,64,9000,300,100,50,2.0,50.0,17.0,883.0\n"
)
PAGE = 'vllm:cache_config_info{block_size="32",num_gpu_blocks="501",engine="0"} 1.0\n'


def test_a_detailed_benchmark_gives_each_request_with_its_own_times() -> None:
    (load,) = read_bench(HERE, json.dumps(DETAILED))
    assert load.measured is not None
    assert load.figures == ()
    assert load.requests[0].arrival_at == 0.0
    assert load.measured.ttft.tolist() == pytest.approx(TIMES.ttft.tolist())
    assert load.measured.e2e.tolist() == pytest.approx(TIMES.e2e.tolist())
    assert [request.prompt_tokens for request in load.requests] == [each.prompt_tokens for each in REQUESTS]


def test_a_benchmark_without_details_gives_its_statistics_and_mean_lengths() -> None:
    (load,) = read_bench(HERE, json.dumps(SUMMARY), cached_share=0.5)
    assert load.measured is None
    found = {(figure.metric, figure.statistic): figure.value for figure in load.figures}
    assert found[Metric.TTFT, Statistic.MEAN] == pytest.approx(TIMES.ttft.mean())
    assert found[Metric.TPOT, Statistic.P99] == pytest.approx(np.nanpercentile(TIMES.tpot, 99))
    assert found[Metric.OUTPUT_RATE, Statistic.MEAN] == pytest.approx(SUMMARY["output_throughput"])
    assert len({request.prompt_tokens for request in load.requests}) == 1
    assert load.requests[0].cached_tokens == load.requests[0].prompt_tokens // 2
    assert load.requests[-1].arrival_at == pytest.approx(39 / 5.0)


def test_a_closed_loop_keeps_the_clients_limit_and_sends_at_once() -> None:
    (load,) = read_bench(HERE, json.dumps(SUMMARY | {"request_rate": "inf", "max_concurrency": 8}))
    assert load.concurrency == 8
    assert {request.arrival_at for request in load.requests} == {0.0}


def test_failed_requests_of_a_benchmark_are_left_out() -> None:
    output_lens = [0 if index == 3 else length for index, length in enumerate(DETAILED["output_lens"])]
    (load,) = read_bench(HERE, json.dumps(DETAILED | {"output_lens": output_lens, "completed": 39}))
    assert len(load.requests) == 39


def test_appended_results_are_several_loads() -> None:
    text = json.dumps(SUMMARY) + "\n" + json.dumps(SUMMARY | {"request_rate": 9.0})
    assert [load.name for load in read_bench(HERE, text)] == ["bench#1", "bench#2"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(json.dumps(SUMMARY) + "\n{", r"bench.json:2: is not JSON", id="cut off"),
        pytest.param(json.dumps(SUMMARY | {"completed": 0}), "no request was completed", id="all failed"),
        pytest.param(json.dumps(SUMMARY | {"num_prompts": "x"}), "num_prompts: .*integer", id="no number"),
        pytest.param(json.dumps(SUMMARY | {"request_rate": -1}), "is no rate", id="negative rate"),
        pytest.param(json.dumps(SUMMARY | {"burstiness": 0}), "burstiness 0.0 is not positive", id="burstiness"),
        pytest.param(json.dumps(SUMMARY | {"total_output_tokens": 3}), "each has at least one", id="no tokens"),
        pytest.param(
            json.dumps({k: v for k, v in SUMMARY.items() if not k.endswith("_ms")} | {"output_throughput": 0}),
            "no statistics", id="no statistics",
        ),
        pytest.param("[]", "no result of", id="something else"),
    ],
)  # fmt: skip
def test_a_benchmark_that_cannot_be_used_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_bench(HERE, text)


def test_a_request_log_gives_requests_times_phases_and_the_servers_limits() -> None:
    log = read_requests(Path("log"), request_log(REQUESTS, TIMES, "--max-num-seqs 7 --num-gpu-blocks-override 24"))
    assert log.limits == {"max_num_seqs": 7, "num_blocks": 23}  # vLLM keeps one block for itself
    assert [(phase.start_s, phase.end_s, phase.rate_per_s) for phase in log.phases] == [(0.0, 60.0, 5.0)]
    assert log.times.ttft.tolist() == TIMES.ttft.tolist()
    half = log.until(float(TIMES.arrival[20]), "half")
    assert len(half.requests) == 20


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param("{", ":2: is not JSON", id="cut off"),
        pytest.param("3", ":2: is no JSON object", id="a number"),
        pytest.param('{"arrival_s": 1}', ":2: prompt_tokens: Field required", id="missing field"),
        pytest.param(
            '{"arrival_s": 5, "first_token_s": 4, "end_s": 6, "prompt_tokens": 3, "completion_tokens": 3}',
            ":2: a request arrives, gets", id="token before arrival",
        ),
        pytest.param(
            '{"arrival_s": 5, "first_token_s": 6, "end_s": 7, "prompt_tokens": 0, "completion_tokens": 3}',
            ":2: .*at least one token", id="no prompt",
        ),
        pytest.param(
            '{"arrival_s": 5, "prompt_tokens": 3, "completion_tokens": 0, "status": 503}', "no request that succeeded",
            id="only failures",
        ),
    ],
)  # fmt: skip
def test_a_request_log_that_cannot_be_used_is_refused_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_requests(Path("log.jsonl"), '{"phases": []}\n' + line)


def test_a_history_of_pages_gives_gauges_and_the_cache() -> None:
    pages = [
        {"t": at, "text": [f"vllm:num_requests_running {running}", "vllm:kv_cache_usage_perc 0.5", PAGE.strip()]}
        for at, running in ((1.0, 2.0), (0.5, 1.0))
    ]
    samples, cache = read_metrics_history(Path("m"), "\n".join(map(json.dumps, pages)))
    gauges = gauges_of(samples)
    assert gauges.at.tolist() == [0.5, 1.0]
    assert gauges.running.tolist() == [1.0, 2.0]
    assert all(map(math.isnan, gauges.waiting))
    assert cache is not None
    assert cache.block_size == 32


def test_a_history_line_without_a_page_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"m:1: is no metrics page"):
        read_metrics_history(Path("m"), '{"t": 1.0, "text": 5}')


def test_a_table_gives_set_ups_with_whole_cached_blocks() -> None:
    small, _, large = read_table(Path("t.csv"), TABLE)
    assert (small.tensor_parallel, large.tensor_parallel) == (1, 4)
    assert (small.load.requests[0].prompt_tokens, small.load.requests[0].cached_tokens) == (400, 96)
    assert small.load.limits["num_blocks"] == 9000


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param("20.0,5.0", ",5.0", r"t.csv:2: ttft_mean_ms: is empty", id="empty cell"),
        pytest.param("20.0,5.0", "fast,5.0", r"t.csv:2: ttft_mean_ms: 'fast' is no number", id="a word"),
        pytest.param("20.0,5.0", "-20,5.0", r"t.csv:2: ttft_mean_ms: -20 is not positive", id="negative"),
        pytest.param("Small,H100", "Small,TPU", r"t.csv:2: hardware: no data sheet of 'TPU'", id="unknown GPU"),
        pytest.param(TABLE.partition("\n")[2], "", "holds no row", id="only a header"),
        pytest.param(",itl_mean_ms", "", r"t.csv:1: .* it has no column itl_mean_ms \(of", id="a column missing"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_cell(old: str, new: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_table(Path("t.csv"), TABLE.replace(old, new, 1))


def test_files_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    bench, log, page = tmp_path / "a", tmp_path / "b.gz", tmp_path / "c"
    bench.write_text(json.dumps(SUMMARY))
    log.write_bytes(gzip.compress(request_log(REQUESTS, TIMES).encode()))
    page.write_text(PAGE)
    found = read_measurements([bench, log, page])
    assert [load.name for load in found.loads] == ["a", "b.gz"]
    assert found.limits == {"max_num_seqs": 64, "block_size": 32, "num_blocks": 500}
    assert found.model == "true-model"
    assert all(load.limits["block_size"] == 32 for load in found.loads)


def test_a_table_as_a_spreadsheet_saves_it_is_read(tmp_path: Path) -> None:
    """Behind a mark of the byte order, with which the first column had another name."""
    path = tmp_path / "t.csv"
    path.write_text(TABLE, encoding="utf-8-sig")
    assert read_measurements([path], rows=["7"]).sources == ["t.csv (table of set-ups)"]


def test_rows_of_a_table_must_be_of_one_set_up(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    with pytest.raises(ConfigError, match="name rows of one model and one number of GPUs with --row"):
        read_measurements([path])
    found = read_measurements([path], rows=["7", "8"])
    assert len(found.loads) == 2
    assert found.floors["base_s"] == pytest.approx(2e9 / 3.35e12)
    fitted = fit_profile(found.loads, base_engine(found, None, {}), free=("base_s", "front_end_s"), floors=found.floors)
    profile = profile_of("small", found, fitted, limits={"max_num_seqs": 32})
    assert (profile.engine.num_blocks, profile.engine.max_num_seqs, profile.hardware) == (9000, 32, "1 x H100 SXM")
    assert profile.coefficients["s_per_kv_token"].method is Method.FLOOR


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"hello", "neither JSON nor a table", id="words"),
        pytest.param(
            b"Timestamp,Model,tp\n1,ChatGPT,2\n",
            "file:1: is no table of set-ups: it has no column exp_id, model, hardware, params",
            id="another CSV",
        ),
        pytest.param(b'{"arrival_s": 0, "x"\n', "neither JSON", id="broken JSON with a comma"),
        pytest.param(b"{}", "docs/accuracy.md tells the formats", id="other JSON"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="bytes"),
        pytest.param(b"\x1f\x8b\x00", "cannot be read", id="broken archive"),
        pytest.param(b"# TYPE x gauge\nvllm:x 1\n", "without vllm:cache_config_info", id="page without cache"),
        pytest.param(PAGE.encode(), "no file holds a load", id="no load"),
    ],
)
def test_other_files_are_refused_with_words(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_measurements([path])


@pytest.mark.parametrize("head", ["", '{"arrival_s": 0}\n'], ids=["in the first line", "in a further line"])
def test_json_that_is_nested_too_deeply_is_refused_in_words(tmp_path: Path, head: str) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text(head + '{"arrival_s": ' + "[" * 200_000 + "\n")
    with pytest.raises(ConfigError, match=r"deep\.jsonl.*JSON"):
        read_measurements([path])
