"""Real traces are read whole: every row and token is accounted for against a count of our own."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shared_data import shared_path
from traces.describe import describe
from traces.fit import fit_profile
from traces.profiles import load_profile
from traces.readers import open_trace
from traces.schema import replayable


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


@pytest.mark.parametrize(
    ("trace", "name"),
    [("azure2023_conv.csv.gz", "azure2023_conv"), ("burstgpt1_first400.csv", "burstgpt1_conv")],
)
def test_a_shipped_profile_is_what_its_source_fits_to(trace: str, name: str) -> None:
    shipped = load_profile(name)
    fitted = fit_profile(open_trace(shared_path(f"traces/llm/{trace}")), name=name, provenance=shipped.provenance)
    assert (fitted.prompt, fitted.output, fitted.requests) == (shipped.prompt, shipped.output, shipped.requests)
    assert fitted.arrival_cv == pytest.approx(shipped.arrival_cv, rel=1e-3)
    assert fitted.correlation == pytest.approx(shipped.correlation, abs=1e-3)
