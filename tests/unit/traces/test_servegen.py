"""ServeGen's shapes: rates, burstiness and lengths of each client and window come out as they went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from broker.model.errors import TraceError
from tests.support.shared_data import shared_path
from tests.unit.traces.files import written
from traces.blocks import joined
from traces.describe import describe_shape
from traces.readers import open_trace
from traces.servegen import read_servegen, servegen_requests

CLIENTS = "client,t_s,rate_rps,cv,dist,p1,p2\n"
HISTOGRAMS = "window_s,field,bin_lo,bin_hi,prob\n"
TOKENS = HISTOGRAMS + "0,input_tokens,10,20,0.5\n0,input_tokens,100,101,0.5\n0,output_tokens,7,8,1\n"


def shape_files(folder: Path, clients: str, tokens: str = TOKENS) -> tuple[Path, Path]:
    return written(folder, CLIENTS + clients, "clients"), written(folder, tokens, "tokens")


@pytest.mark.parametrize(
    ("family", "shape", "cv"), [("Gamma", 0.25, 2.0), ("Gamma", 4.0, 0.5), ("Weibull", 0.5, 5**0.5)]
)
def test_a_clients_gaps_have_its_rate_and_burstiness(tmp_path: Path, family: str, shape: float, cv: float) -> None:
    rows = "".join(f"3,{600 * n},20,1,{family},{shape},9\n" for n in range(50))
    block = joined(list(servegen_requests(read_servegen(*shape_files(tmp_path, rows)), 1).blocks()))
    gaps = np.diff(block.arrival_s)
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)
    assert set(block.tenant.tolist()) == {3}


def test_scaling_the_rate_keeps_the_burstiness(tmp_path: Path) -> None:
    rows = "".join(f"0,{600 * n},2,1,Gamma,0.25,1\n" for n in range(50))
    shape = read_servegen(*shape_files(tmp_path, rows))
    for factor in (0.5, 10.0):
        gaps = np.diff(joined(list(servegen_requests(shape, 4, rate_scale=factor).blocks())).arrival_s)
        assert gaps.mean() == pytest.approx(1 / (2 * factor), rel=0.1)
        assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.08)


def test_lengths_come_from_the_histogram_that_holds(tmp_path: Path) -> None:
    tokens = TOKENS + "1200,input_tokens,5,6,1\n1200,output_tokens,9,10,1\n"
    rows = "0,0,50,1,Gamma,1,1\n0,1800,50,1,Gamma,1,1\n"
    block = joined(list(servegen_requests(read_servegen(*shape_files(tmp_path, rows, tokens)), 1).blocks()))
    early, late = block.take(block.arrival_s < 600), block.take(block.arrival_s >= 1800)
    assert len(early) + len(late) == len(block)
    assert set(early.prompt_tokens.tolist()) == {*range(10, 20), 100}
    assert np.mean(early.prompt_tokens == 100) == pytest.approx(0.5, abs=0.02)
    assert set(late.prompt_tokens.tolist()) == {5}
    assert set(late.output_tokens.tolist()) == {9}


BAD = {
    "an unknown family": ("0,0,1,1,Pareto,1,1", TOKENS, r"clients:2:9: dist: 'Pareto' is not known"),
    "a negative rate": ("0,0,-1,1,Gamma,1,1", TOKENS, r"clients:2:5: rate_rps: '-1' is not a number of 0 or more"),
    "no shape": ("0,0,1,1,Gamma,0,1", TOKENS, r"clients:2:15: p1: '0' is not a shape"),
    "too few columns": ("0,0,1", TOKENS, r"clients:2: dist: missing"),
    "a bad share": ("0,0,1,1,Gamma,1,1", TOKENS + "0,both,1,2,x\n", r"tokens:5:12: prob: 'x' is not a number"),
    "no answers": ("0,0,1,1,Gamma,1,1", HISTOGRAMS + "0,input_tokens,1,2,1\n", r"no histogram of input_tokens and"),
    "another file": ("0,0,1,1,Gamma,1,1", "a,b\n1,2\n", r"tokens:1: no column window_s"),
}


@pytest.mark.parametrize(("clients", "tokens", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_shape_is_named_by_line_and_column(tmp_path: Path, clients: str, tokens: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_servegen(*shape_files(tmp_path, clients + "\n", tokens))


def test_a_shape_is_no_trace_and_says_so(tmp_path: Path) -> None:
    clients, tokens = shape_files(tmp_path, "0,0,1,1,Gamma,1,1\n")
    for path in (clients, tokens):
        with pytest.raises(TraceError, match="holds rates and histograms, no requests"):
            open_trace(path)
        assert describe_shape(path) is not None


def test_the_real_shape_makes_the_rate_it_says() -> None:
    shape = read_servegen(
        shared_path("traces/servegen/deepseek-r1_clients.csv.gz"),
        shared_path("traces/servegen/deepseek-r1_token_hist_6h.csv.gz"),
    )
    rates = describe_shape(shared_path("traces/servegen/deepseek-r1_rate_10min.csv"))
    assert rates is not None
    assert shape.mean_per_s == pytest.approx(rates.figures["mean_per_s"], rel=0.01)
    count = sum(len(block) for block in servegen_requests(shape, 1).blocks())
    assert count / shape.span_s == pytest.approx(shape.mean_per_s, rel=0.01)
