"""Replicas that were not ready when the load began, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from broker.model.replica import ReplicaPhase
from broker.model.units import format_duration
from simulator.report.recorder import Recorded


def late_words(recorded: Recorded, asked: Collection[str]) -> tuple[str, ...]:
    """A line for each model that was asked before its least replicas were ready."""
    ready = Counter(
        one.model_id
        for one in recorded.replicas
        if one.interval.phase is ReplicaPhase.READY and one.interval.begin_s <= 0.0 < one.interval.end_s
    )
    warm_up = format_duration(round(-recorded.begin_s))
    return tuple(
        f"{ready[name]:,} of the {model.minimum:,} replicas of {name}'s min were ready when the load began: what came "
        f"first met starts, which a warm-up longer than {warm_up} keeps out of the figures"
        for model in recorded.models
        if (name := model.model_id) in asked and ready[name] < model.minimum
    )
