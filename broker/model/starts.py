"""What the broker learned of replicas' starts: how long they queued and loaded, and on what kind of node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ENOUGH = 5
"""Fewer starts than this are no distribution."""


@dataclass(frozen=True, slots=True)
class StartPlace:
    """What a replica found where it started. ``node_class`` tells kinds of nodes apart (``gpu:h100``), empty where
    nobody told it. ``weights_cached``: at least half of the bytes of its weights were in the node's memory already;
    false also where nobody could tell."""

    node_class: str = ""
    weights_cached: bool = False


@dataclass(frozen=True, slots=True)
class StartTime:
    """One replica's way to users: ``queue_s`` from being asked for to its start, ``load_s`` from there to proven ready,
    ``at``, in ``place``."""

    at: float
    queue_s: float
    load_s: float
    place: StartPlace = StartPlace()


@dataclass(frozen=True, slots=True)
class StartTimes:
    """How long the replicas of one model took to start in one pool, the latest last. A pool is a partition and a wall
    time, and ``gpus`` a replica's size, which is what a queue goes by."""

    pool_id: str
    model_id: str
    gpus: int
    latest: tuple[StartTime, ...] = ()


def starts_entity_key(model_id: str, pool_id: str) -> str:
    return f"{model_id}/{pool_id}"


def loads_like(starts: Sequence[StartTime], place: StartPlace) -> list[float]:
    """The load times that tell what one in such a place takes: of this class of nodes with the weights as cached as
    here, if there are ``ENOUGH``; else of all classes with them so; else of all ``starts``, maybe too few."""
    name, cached = place.node_class, place.weights_cached
    same = [start.load_s for start in starts if start.place.node_class == name and start.place.weights_cached == cached]
    if len(same) >= ENOUGH:
        return same
    alike = [start.load_s for start in starts if start.place.weights_cached == cached]
    return alike if len(alike) >= ENOUGH else [start.load_s for start in starts]
