"""Fits a ``LoadProfile`` to the requests of a trace. To repeat a shipped fit:

    python -m traces.fit TRACE --name NAME --provenance TEXT [--hourly HOURLY_CSV] > traces/profiles/NAME.json

``--hourly`` takes the daily shape from counts by hour (columns ``day,hour,<kind>``) where the trace is too short.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from broker.model.errors import TidegateError, TraceError
from broker.model.wire import encode
from traces.generate import LoadProfile
from traces.lengths import TokenQuantiles
from traces.readers import open_trace
from traces.schema import TraceRequest

Floats = NDArray[np.float64]

_RATE_BIN_S = 300.0
_LEAST_PER_BIN = 50
"""Within a bin the rate counts as constant; fewer arrivals would take the burstiness out together with the trend."""

_LEAST_REQUESTS = 100

_PROBABILITIES = (0.0, 0.01, 0.05, *(i / 20 for i in range(2, 19)), 0.95, 0.975, 0.99, 0.999, 1.0)


def fit_profile(requests: Iterable[TraceRequest], *, name: str, provenance: str) -> LoadProfile:
    """The profile of these requests, failed ones left out. Takes 24 bytes of memory per request.

    Raises ``TraceError`` for fewer than 100 requests.
    """
    arrivals, prompts, outputs = array("d"), array("d"), array("d")
    for request in requests:
        if not request.failed:
            arrivals.append(request.arrival_s)
            prompts.append(max(1, request.prompt_tokens))
            outputs.append(request.output_tokens)
    if len(arrivals) < _LEAST_REQUESTS:
        raise TraceError(f"{len(arrivals)} requests are too few to fit a profile; it takes {_LEAST_REQUESTS}")
    at, prompt, output = np.frombuffer(arrivals), np.frombuffer(prompts), np.frombuffer(outputs)
    return LoadProfile(
        name=name,
        provenance=provenance,
        requests=len(at),
        arrival_cv=round(arrival_cv(at), 4),
        prompt=token_quantiles(prompt),
        output=token_quantiles(output),
        correlation=round(normal_score_correlation(prompt, output), 4),
        hourly_shape=daily_shape(np.bincount((at // 3600).astype(np.int64))),
    )


def arrival_cv(at: Floats) -> float:
    """Coefficient of variation of the gaps, in a time that runs with the rate of 300 s bins (or longer ones, of 50
    arrivals at least), so that slow changes of the rate do not count as burstiness."""
    span_s = at[-1] - at[0]
    bins = max(1, min(int(span_s / _RATE_BIN_S), len(at) // _LEAST_PER_BIN))
    edges = np.linspace(at[0], at[-1], bins + 1)
    counts, _ = np.histogram(at, edges)
    gaps = np.diff(np.interp(at, edges, np.concatenate(([0.0], np.cumsum(counts)))))
    return float(gaps.std() / gaps.mean())


def token_quantiles(tokens: Floats) -> TokenQuantiles:
    values = np.quantile(tokens, _PROBABILITIES)
    return TokenQuantiles(_PROBABILITIES, tuple(round(float(value), 1) for value in values))


def normal_score_correlation(first: Floats, second: Floats) -> float:
    """The Gaussian copula's correlation that gives the observed rank correlation: 2 sin(pi/6 * Spearman's rho); 0 where
    one of them never changes."""
    first_ranks, second_ranks = _ranks(first), _ranks(second)
    if first_ranks.std() == 0 or second_ranks.std() == 0:
        return 0.0
    return 2 * math.sin(math.pi / 6 * float(np.corrcoef(first_ranks, second_ranks)[0, 1]))


def _ranks(values: Floats) -> Floats:
    """Ranks, ties at their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks


def daily_shape(hourly: Sequence[float] | NDArray[np.int64]) -> tuple[float, ...]:
    """Mean rate of each hour of the day over the mean of all, () for less than two days of hourly counts."""
    days = len(hourly) // 24
    if days < 2:
        return ()
    by_hour = np.asarray(hourly[: days * 24], dtype=float).reshape(days, 24).mean(axis=0)
    return tuple(round(float(value), 4) for value in by_hour / by_hour.mean())


def _hourly_counts(path: str, kind: str) -> list[float]:
    with open(path, encoding="utf-8", newline="") as file:
        return [float(row[kind]) for row in csv.DictReader(file)]


def main(arguments_given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m traces.fit", description="Fit a load profile to a trace.")
    parser.add_argument("trace")
    parser.add_argument("--name", required=True)
    parser.add_argument("--provenance", required=True)
    parser.add_argument("--hourly", help="CSV of counts by hour, in order")
    parser.add_argument("--hourly-kind", default="conversation", help="its column of counts")
    arguments = parser.parse_args(arguments_given)
    try:
        profile = fit_profile(open_trace(arguments.trace), name=arguments.name, provenance=arguments.provenance)
    except TidegateError as error:
        print(error, file=sys.stderr)
        return 2
    data = encode(profile)
    if arguments.hourly:
        data["hourly_shape"] = list(daily_shape(_hourly_counts(arguments.hourly, arguments.hourly_kind)))
    print(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
