"""The scan of ``/metrics`` says what the reference parser says, on real pages and on broken ones."""

from __future__ import annotations

import dataclasses
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.model.errors import WireError
from broker.model.signals import Histogram, MetricSample
from signals.ingest.vllm_metrics import (
    MAX_PAGE_BYTES,
    METRIC_NAMES,
    CacheConfig,
    parse_cache_config,
    parse_metrics,
    parse_page,
)
from tests.support.shared_data import shared_path

DUMPS = ("metrics_v0.32.0.txt", "metrics_v0.27.0.txt", "metrics_small_kv_v0.32.0.txt")
HISTOGRAMS = ("queue_time", "time_to_first_token", "inter_token_latency")


def parse(page: bytes | str, model_id: str = "tiny") -> MetricSample:
    return parse_metrics(page, model_id, "tiny-0-g1", 10.0, 10.5)


def reference_value(page: str, field: str) -> float | Histogram | None:
    """What ``prometheus_client`` reads for one field of a page with one engine."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    for name, _ in METRIC_NAMES[field]:
        if field in HISTOGRAMS:
            buckets = {float(s.labels["le"]): s.value for s in samples if s.name == name + "_bucket"}
            total = sum(s.value for s in samples if s.name == name + "_sum")
            if buckets:
                bounds = tuple(sorted(buckets))
                return Histogram(bounds, tuple(buckets[bound] for bound in bounds), total)
        else:
            values = [s.value for s in samples if s.name == name]
            if values:
                return sum(values)
    return None


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("field", METRIC_NAMES)
def test_every_field_of_a_real_page_is_what_the_reference_parser_reads(dump: str, field: str) -> None:
    page = shared_path(f"vllm/{dump}").read_bytes()
    expected = reference_value(page.decode(), field)
    assert expected is not None
    assert getattr(parse(page), field) == expected


@pytest.mark.parametrize("dump", DUMPS)
def test_a_real_page_has_no_bad_values(dump: str) -> None:
    assert parse_page(shared_path(f"vllm/{dump}").read_bytes(), "tiny", "r", 1.0, 1.0).bad_values == 0


def test_the_cache_size_is_read_from_a_real_page() -> None:
    assert parse_cache_config(shared_path(f"vllm/{DUMPS[2]}").read_bytes()) == CacheConfig(128, 10)


def test_table_covers_every_measured_field_of_a_sample() -> None:
    measured = {field.name for field in dataclasses.fields(MetricSample)} - {
        "model_id",
        "replica_id",
        "observed_at",
        "received_at",
    }
    assert set(METRIC_NAMES) == measured


def gauge(name: str, value: object, engine: int = 0, model: str = "tiny") -> str:
    return f'vllm:{name}{{engine="{engine}",model_name="{model}"}} {value}\n'


def buckets(name: str, *counts: float, engine: int = 0) -> str:
    bounds = ["0.5", "1.0", "+Inf"]
    lines = [
        f'vllm:{name}_bucket{{engine="{engine}",le="{bound}",model_name="tiny"}} {count}\n'
        for bound, count in zip(bounds, counts, strict=True)
    ]
    return "".join(lines) + f'vllm:{name}_sum{{engine="{engine}",model_name="tiny"}} {sum(counts)}\n'


def test_engines_of_one_server_add_up_and_the_fullest_cache_counts() -> None:
    page = (
        gauge("num_requests_running", 3.0, engine=0)
        + gauge("num_requests_running", 4.0, engine=1)
        + "# TYPE vllm:kv_cache_usage_perc gauge\n"
        + gauge("kv_cache_usage_perc", 0.2, engine=0)
        + gauge("kv_cache_usage_perc", 0.9, engine=1)
        + "# TYPE vllm:request_queue_time_seconds histogram\n"
        + buckets("request_queue_time_seconds", 1.0, 2.0, 5.0, engine=0)
        + buckets("request_queue_time_seconds", 1.0, 1.0, 1.0, engine=1)
    )
    sample = parse(page)
    assert sample.requests_running == 7.0
    assert sample.kv_cache_use == 0.9
    assert sample.queue_time == Histogram((0.5, 1.0, math.inf), (2.0, 3.0, 6.0), 11.0)


def test_finished_requests_count_whatever_their_reason() -> None:
    page = "".join(
        f'vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name="tiny"}} {count}\n'
        for reason, count in (("stop", 5), ("length", 2), ("abort", 1))
    )
    assert parse(page).requests_finished_total == 8.0


def test_of_several_models_on_a_page_only_ours_counts() -> None:
    page = gauge("num_requests_running", 3, model="tiny") + gauge("num_requests_running", 40, model="other")
    assert parse(page).requests_running == 3.0


def test_an_engine_that_calls_the_model_by_another_name_counts_whole() -> None:
    page = gauge("num_requests_running", 3, model="/models/a") + gauge("num_requests_running", 4, model="/models/b")
    assert parse(page, "chat").requests_running == 7.0


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [("kv_cache_use", "gpu_cache_usage_perc", "kv_cache_usage_perc")],
)
def test_a_page_with_old_and_new_name_counts_once(field: str, old: str, new: str) -> None:
    both = gauge(old, 0.4) + "# TYPE next gauge\n" + gauge(new, 0.4)
    assert getattr(parse(both), field) == 0.4
    assert getattr(parse(gauge(old, 0.4)), field) == 0.4


@pytest.mark.parametrize(
    ("field", "old"),
    [("queue_time", "time_in_queue_requests"), ("inter_token_latency", "time_per_output_token_seconds")],
)
def test_histograms_are_read_by_their_old_names(field: str, old: str) -> None:
    assert getattr(parse(buckets(old, 1.0, 2.0, 3.0)), field) == Histogram((0.5, 1.0, math.inf), (1.0, 2.0, 3.0), 6.0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "many", "", "1 2 3"])
def test_a_value_that_is_no_use_makes_its_metric_absent_and_is_counted(value: str) -> None:
    page = parse_page(
        gauge("num_requests_running", 2.0, engine=0)
        + gauge("num_requests_running", value, engine=1)
        + "# TYPE vllm:num_requests_waiting gauge\n"
        + gauge("num_requests_waiting", 1.0),
        "tiny",
        "r",
        1.0,
        1.0,
    )
    assert page.sample.requests_running is None
    assert page.sample.requests_waiting == 1.0
    assert page.bad_values == 1


@pytest.mark.parametrize(
    "page",
    [
        buckets("time_to_first_token_seconds", 3.0, 2.0, 1.0),
        buckets("time_to_first_token_seconds", 1.0, 2.0, 3.0).replace("+Inf", "9"),
        buckets("time_to_first_token_seconds", 1.0, 2.0, 3.0).replace('le="1.0"', 'le="x"'),
        buckets("time_to_first_token_seconds", 1.0, 2.0, 3.0).replace('le="1.0",', ""),
        buckets("time_to_first_token_seconds", 1.0, 2.0, 3.0)
        + 'vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="tiny"} 3.0\n',
    ],
    ids=["falling", "without infinity", "bound not a number", "bound missing", "engines with other buckets"],
)
def test_a_broken_histogram_is_absent_and_counted(page: str) -> None:
    read = parse_page(page, "tiny", "r", 1.0, 1.0)
    assert read.sample.time_to_first_token is None
    assert read.bad_values == 1


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running 5",
        'vllm:num_requests_running{engine="0"} 5 1700000000000',
        'vllm:num_requests_running{engine="0"} 5.0\r',
        'vllm:num_requests_running{model_name="a } # \\" b"} 5',
        'vllm:num_requests_running{engine="0"} 5 # {trace_id="x"} 0.3 1.0',
    ],
    ids=["no labels", "time stamp", "carriage return", "odd label", "exemplar"],
)
def test_unusual_but_legal_lines_are_read(line: str) -> None:
    assert parse(line).requests_running == 5.0


def test_a_longer_name_is_another_metric() -> None:
    by_reason = 'vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 9\n'
    assert parse(by_reason).requests_waiting is None
    assert parse(by_reason + gauge("num_requests_waiting", 2)).requests_waiting == 2.0


def test_a_page_of_another_program_says_nothing() -> None:
    sample = parse("# TYPE python_info gauge\npython_info 1.0\n")
    assert sample == MetricSample("tiny", "tiny-0-g1", 10.0, 10.5)


@pytest.mark.parametrize("page", [b"", b"<html>404</html>", b'{"error": "x"}', b"\xff\xfe\x00", "Not found 404"])
def test_what_is_no_metrics_page_is_refused(page: bytes | str) -> None:
    with pytest.raises(WireError, match="not a Prometheus metrics page"):
        parse(page)


def test_a_giant_page_is_refused() -> None:
    with pytest.raises(WireError, match="bytes"):
        parse(b"vllm:x 1\n" * (MAX_PAGE_BYTES // 8))
