"""The metrics page is a vLLM 0.32.0 server's in every name, type, label and bucket."""

from __future__ import annotations

import dataclasses

from prometheus_client.parser import text_string_to_metric_families

from simulator.emulator.metrics import Histogram, Scalar
from simulator.emulator.process_metrics import HttpMetrics, ProcessMetrics
from simulator.emulator.vllm_metrics import VllmMetrics, one_two_five
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import EngineRequest, Finished
from simulator.profiles.document import load_profile
from tests.support.shared_data import shared_path

LABELS_WITH_FREE_VALUES = {"model_name", "version", "patchlevel", "minor", "major", "implementation"}


def page(model_name: str, max_model_len: int) -> str:
    http = HttpMetrics(1.0)
    for handler, method in (("/v1/models", "GET"), ("/v1/completions", "POST"), ("/v1/chat/completions", "POST")):
        http.observe(handler, method, 200, 0.1, 10, 20)
    profile = load_profile("demo").engine
    engine = VllmMetrics(model_name, max_model_len, profile, 1.0).text(ReferenceEngine(profile))
    return ProcessMetrics().text() + engine + http.text()


def types(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("# TYPE ")]


def series(text: str) -> list[str]:
    """Every sample line without its value and without the label values that differ from server to server."""
    found = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, labels = line.rpartition(" ")[0].partition("{")
        pairs = [pair.partition("=")[::2] for pair in labels.rstrip("}").split('",') if pair]
        free = name == "vllm:cache_config_info"
        kept = [key if free or key in LABELS_WITH_FREE_VALUES else f"{key}={value}" for key, value in pairs]
        found.append(f"{name} {kept}".replace('"', "").replace("'", ""))
    return found


def test_all_families_types_labels_and_buckets_equal_the_real_servers_in_order() -> None:
    real = shared_path("vllm/metrics_v0.32.0.txt").read_text()
    ours = page("tiny", max_model_len=512)
    assert len(types(real)) == 92
    assert types(ours) == types(real)
    assert series(ours) == series(real)


def test_the_page_is_valid_for_the_reference_parser() -> None:
    families = {family.name for family in text_string_to_metric_families(page('a "b"\\c', 4096))}
    assert {"vllm:num_requests_running", "vllm:e2e_request_latency_seconds", "http_requests"} <= families


def test_a_value_on_a_bucket_bound_counts_below_it() -> None:
    histogram = Histogram("h", (1.0, 2.0), {"a": "b"}, 5.0)
    for value in (1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.text() == (
        "# TYPE h histogram\n"
        'h_bucket{a="b",le="1.0"} 1.0\nh_bucket{a="b",le="2.0"} 2.0\nh_bucket{a="b",le="+Inf"} 3.0\n'
        'h_count{a="b"} 3.0\nh_sum{a="b"} 11.5\n'
        '# TYPE h_created gauge\nh_created{a="b"} 5.0\n'
    )


def test_label_values_are_escaped() -> None:
    assert 'x{a="1\\"2\\\\3\\n"} 0.0' in Scalar("x", "gauge", [{"a": '1"2\\3\n'}]).text()


def test_token_buckets_end_at_the_models_length() -> None:
    assert one_two_five(512) == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert one_two_five(1000)[-1] == 1000


def test_queue_time_is_observed_only_when_the_request_finishes() -> None:
    profile = dataclasses.replace(load_profile("steady-30").engine, max_num_seqs=1)
    metrics = VllmMetrics("chat", 512, profile, 1.0)
    engine = ReferenceEngine(profile)
    for name in ("a", "b"):
        engine.add(EngineRequest(name, 0.0, 4, 30))
    events = engine.advance(1.5)
    assert [event.request_id for event in events if isinstance(event, Finished)] == ["a"]
    for event in events:
        if isinstance(event, Finished):
            metrics.observe_finished(
                event, arrival_at=0.0, prompt_tokens=4, cached_tokens=0, output_tokens=30, max_tokens=30,
                reason="length",
            )  # fmt: skip
    text = metrics.text(engine)
    assert 'vllm:request_queue_time_seconds_count{engine="0",model_name="chat"} 1.0' in text
    assert 'vllm:num_requests_running{engine="0",model_name="chat"} 1.0' in text
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="chat"} 1.0' in text
