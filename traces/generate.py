"""Requests drawn from a fitted profile under a given rate curve.

Arrivals are a gamma renewal process whose clock runs with the rate: gaps of mean 1 and the profile's coefficient of
variation are laid along the curve's integral (ServeGen, arXiv 2505.09999, describes production
arrivals by Gamma and Weibull gaps within minutes). Lengths have the profile's quantiles, joined by a Gaussian copula.
A profile with sessions draws the arrivals of sessions and lets each go on (``traces.sessions``).
What comes out has the shape of its source in these respects and no others; call it "azure2023_conv-shaped".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from traces.blocks import BLOCK_ROWS, NONE, Floats, Names, request_block
from traces.lengths import TokenQuantiles
from traces.randomness import stream
from traces.rates import HourLevels, RateCurve
from traces.schema import Requests
from traces.sessions import Script, SessionShape, flowing, lengthened


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """Everything about a load but its rate.

    ``arrival_cv`` is the coefficient of variation of the gaps between beginnings of sessions, between requests where
    there are none, after slow changes of the rate are taken out (of the gamma distribution with shape 1 / cv^2);
    ``correlation`` that of the normal scores of prompt and output length.
    ``hourly_shape`` has the rate of each hour relative to its mean: 168 hours of the week, or 24 of the day, or none
    where the source is too short to know. It begins with Monday's, or the day's, first hour in UTC if the source is
    dated, else with the source's own first hour. ``hour_levels`` stand in its place for a source that has hours of
    bursts and no day. ``prompt`` is that of requests that do not continue a session.
    ``tenants`` are shares, the largest first, without names. ``provenance`` says what it was fitted to, and how.
    """

    name: str
    provenance: str
    requests: int
    arrival_cv: float
    prompt: TokenQuantiles
    output: TokenQuantiles
    correlation: float
    hourly_shape: tuple[float, ...] = ()
    hour_levels: HourLevels | None = None
    mean_per_s: float = 0.0
    sessions: SessionShape | None = None
    tenants: tuple[float, ...] = ()


def scale_tokens(profile: LoadProfile, *, prompt: float = 1.0, output: float = 1.0) -> LoadProfile:
    """The same profile with prompts and outputs longer or shorter by these factors."""
    sessions = profile.sessions
    if sessions is not None:
        sessions = replace(sessions, added=sessions.added.scaled(prompt))
    return replace(
        profile, prompt=profile.prompt.scaled(prompt), output=profile.output.scaled(output), sessions=sessions
    )


def renewal(cv: float, curve: RateCurve, random: np.random.Generator) -> Iterator[Floats]:
    """Times of a gamma renewal process along the curve, some at a time; stationary from its start: the first gap is one
    that the start falls into (length-biased, and cut at a uniform point)."""
    until = curve.expected_until()
    shape = math.inf if cv == 0 else 1 / cv**2
    expected = random.random() * (1.0 if math.isinf(shape) else random.gamma(shape + 1, 1 / shape))
    while expected < until[-1]:
        gaps = np.ones(BLOCK_ROWS) if math.isinf(shape) else random.gamma(shape, 1 / shape, BLOCK_ROWS)
        totals = expected + np.concatenate(([0.0], np.cumsum(gaps)))
        yield curve.time_of(totals[:-1][totals[:-1] < until[-1]], until)
        expected = float(totals[-1])


def generate(
    profile: LoadProfile, curve: RateCurve, seed: int, *, name: str = "load", tenants: Mapping[str, float] | None = None
) -> Requests:
    """Requests shaped like ``profile`` at the rates of ``curve``, in order of arrival; the same for the same seed.

    ``name`` tells several loads of one run apart, which must not move together. ``tenants`` are names and shares; each
    session belongs to one. Where sessions go on, the first minutes hold fewer follow-ups than the later ones.
    """
    shares = tenant_shares(profile, tenants)
    return Requests(
        lambda: flowing(scripts(profile, curve, seed, name=name, shares=tuple(shares.values())), curve.times_s[-1]),
        tenants=Names("tenants", tuple(shares)),
    )


def tenant_shares(profile: LoadProfile, tenants: Mapping[str, float] | None) -> Mapping[str, float]:
    """By name: ``tenants``, or those of the profile, which has no names for them."""
    return tenants if tenants is not None else {f"tenant-{n + 1}": share for n, share in enumerate(profile.tenants)}


def scripts(
    profile: LoadProfile, curve: RateCurve, seed: int, *, name: str = "load", shares: Sequence[float] = ()
) -> Iterator[Script]:
    """The same load as sessions in full, for clients that react to what they get (``traces.clients``)."""
    shape = profile.sessions
    arrivals = stream(seed, name, "arrivals")
    lengths, turns, owners = stream(seed, name, "lengths"), stream(seed, name, "turns"), stream(seed, name, "tenants")
    number = 0
    sessions_curve = curve if shape is None else curve.scaled(1 / shape.turns)
    for at in renewal(profile.arrival_cv, sessions_curve, arrivals):
        counts = np.ones(len(at), dtype=np.int64) if shape is None else shape.draw_turns(turns, len(at))
        total = int(counts.sum())
        scores = lengths.standard_normal((total, 2))
        own = math.sqrt(1 - profile.correlation**2)
        outputs = profile.output.of_scores(profile.correlation * scores[:, 0] + own * scores[:, 1])
        begins = np.cumsum(counts) - counts
        first = np.zeros(total, dtype=np.bool_)
        first[begins] = True
        prompts = profile.prompt.of_scores(scores[:, 0])
        if shape is not None:
            prompts = np.where(first, prompts, shape.added.of_scores(scores[:, 0]))
        tenant = _owners(shares, owners, len(at))
        block = request_block(
            np.repeat(at, counts), prompts, outputs,
            tenant=np.repeat(tenant, counts),
            **({} if shape is None else _session_columns(number, counts)),
        )  # fmt: skip
        pauses = np.zeros(total) if shape is None else shape.draw_pauses(turns, total)
        yield lengthened(Script(block, first, pauses), shape)
        number += len(at)


def _session_columns(number: int, counts: Any) -> dict[str, Any]:
    sessions = np.repeat(np.arange(number, number + len(counts)), counts)
    return {"session": sessions, "prefix_group": sessions}


def _owners(shares: Sequence[float], random: np.random.Generator, count: int) -> Any:
    if not shares:
        return np.full(count, NONE)
    upper = np.cumsum(np.asarray(shares, dtype=float))
    return np.searchsorted(upper / upper[-1], random.random(count), side="right")


DEMO_PEAK = 3.0
"""The demo's peak over what one replica can do: it must scale out twice to keep up, and can be seen to scale in."""

_DEMO_SHAPE = (
    (0.0, 0.5),
    (0.08, 0.5),
    (0.28, DEMO_PEAK),
    (0.5, DEMO_PEAK),
    (0.56, 2.1),
    (0.78, 2.1),
    (0.84, 0.15),
    (1.0, 0.15),
)
"""(share of the duration, rate over one replica's capacity): calm, ramp, hold, a shoulder on which a drain begins while
many streams are open, quiet tail."""


def demo_curve(one_replica_per_s: float, duration_s: float) -> RateCurve:
    """A rate that ramps to three times one replica's capacity in requests per second, holds, falls, and goes quiet."""
    return RateCurve(
        times_s=tuple(share * duration_s for share, _ in _DEMO_SHAPE),
        rates_per_s=tuple(load * one_replica_per_s for _, load in _DEMO_SHAPE),
    )


def demo_load(profile: LoadProfile, one_replica_per_s: float, duration_s: float, seed: int) -> Requests:
    """The demo's requests when no trace is given."""
    return generate(profile, demo_curve(one_replica_per_s, duration_s), seed)
