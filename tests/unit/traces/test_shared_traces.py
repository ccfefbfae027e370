"""Real traces are read whole: every row and token is accounted for against a count of our own."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.shared_data import shared_path
from traces.describe import describe
from traces.fit import fit_file, hour_levels, hourly_shape
from traces.options import RequestKind
from traces.profiles import load_profile
from traces.readers import open_trace
from traces.schema import replayable
from traces.servegen import WINDOW_S, read_servegen


def columns_of(path: Path) -> Iterator[tuple[int, int]]:
    """(input, output) tokens of each row, read in another way than ours: all at once, with csv and json."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    if text.startswith("{"):
        for line in text.splitlines():
            data = json.loads(line)
            yield data["input_length"], data["output_length"]
        return
    for row in csv.DictReader(io.StringIO(text)):
        names = (
            ("ContextTokens", "GeneratedTokens") if "ContextTokens" in row else ("Request tokens", "Response tokens")
        )
        yield int(row[names[0]]), int(row[names[1]])


@pytest.mark.parametrize(
    ("name", "format_name", "rows", "failed", "span_s"),
    [
        ("azure2023_conv.csv.gz", "Azure", 19_366, 0, 3501.7),
        ("burstgpt1_first400.csv", "BurstGPT", 400, 17, 37_269.0),
        ("mooncake_conversation_trace.jsonl.gz", "Mooncake", 12_031, 0, 3537.0),
    ],
)
def test_every_row_and_token_of_a_real_trace_is_accounted_for(
    name: str, format_name: str, rows: int, failed: int, span_s: float
) -> None:
    path = shared_path(f"traces/llm/{name}")
    expected = list(columns_of(path))
    trace = open_trace(path)
    requests = list(trace)
    assert trace.format.name == format_name
    assert [(request.prompt_tokens, request.output_tokens) for request in requests] == expected
    assert (len(requests), trace.statistics.failed, trace.statistics.bad) == (rows, failed, 0)
    assert requests[-1].arrival_s == pytest.approx(span_s, abs=0.1)
    info = describe(path)
    assert info.prompt is not None
    assert info.output is not None
    assert info.prompt.total == sum(prompt for prompt, output in expected if output)
    assert info.output.total == sum(output for _, output in expected)
    assert sum(1 for _ in replayable(trace)) == rows - failed


HOURLY = "traces/llm/burstgpt1_hourly_days00-39.csv"


@pytest.mark.parametrize(
    ("trace", "name", "kind"),
    [
        ("azure2023_conv.csv.gz", "azure2023_conv", None),
        ("burstgpt1_first400.csv", "burstgpt1_conv", RequestKind.CONVERSATION),
        ("mooncake_conversation_trace.jsonl.gz", "mooncake_conv", None),
    ],
)
def test_a_shipped_profile_is_what_its_source_fits_to(trace: str, name: str, kind: RequestKind | None) -> None:
    shipped = load_profile(name)
    fitted = fit_file(
        shared_path(f"traces/llm/{trace}"), name=name, provenance=shipped.provenance, kind=kind,
        hourly=shared_path(HOURLY) if kind else None,
    )  # fmt: skip
    assert replace(fitted, mean_per_s=0.0) == replace(shipped, mean_per_s=0.0)


def test_the_shipped_bursts_are_those_of_the_hourly_counts() -> None:
    counts = [float(row["api"]) for row in csv.DictReader(shared_path(HOURLY).read_text().splitlines())]
    shipped = load_profile("burstgpt1_api")
    assert shipped.hour_levels == hour_levels(counts)
    assert shipped.mean_per_s == pytest.approx(sum(counts) / len(counts) / 3600, rel=1e-3)


def test_the_shipped_service_has_the_week_and_lengths_of_its_shape() -> None:
    shape = read_servegen(
        shared_path("traces/servegen/m-small_clients.csv.gz"),
        shared_path("traces/servegen/m-small_token_hist_6h.csv.gz"),
    )
    shipped = load_profile("servegen_m_small")
    hours = np.bincount((shape.begins_s // 3600).astype(int), shape.rate_per_s * WINDOW_S, minlength=336)
    assert shipped.hourly_shape == pytest.approx(hourly_shape(hours.tolist()), rel=0.1)
    assert shipped.mean_per_s == pytest.approx(shape.mean_per_s, rel=1e-3)


def test_what_prefix_groups_keep_of_the_shared_prompt_tokens() -> None:
    """A group keeps 88 % of what the hashes tell: the system prompt of a new conversation belongs to no group."""
    path = shared_path("traces/llm/mooncake_conversation_trace.jsonl.gz")
    known: set[int] = set()
    shared = prompts = 0
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        data = json.loads(line)
        count = next((n for n, block in enumerate(data["hash_ids"]) if block not in known), len(data["hash_ids"]))
        shared += min(data["input_length"], 512 * count)
        prompts += data["input_length"]
        known.update(data["hash_ids"])
    kept = describe(path).prefix_share
    assert kept is not None
    assert kept * prompts / shared == pytest.approx(0.88, abs=0.01)
