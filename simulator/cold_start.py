"""How long a replica takes from its job's start until it serves, and what a node remembers of it.

The time in the queue is the cluster's. What follows is boot, fetching the weights to the node, loading them to the
GPUs, compiling, and warming up. A node keeps what was fetched and compiled as long as its cache has room (the least
recently used goes first), so where a model ran before, it starts faster.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Duration:
    """Lognormal: ``median_s``, and ``sigma`` of its logarithm."""

    median_s: float
    sigma: float = 0.0

    def at(self, score: float) -> float:
        """For a standard normal score."""
        return self.median_s * math.exp(self.sigma * score)


@dataclass(frozen=True, slots=True)
class StartPhases:
    """Seconds of each phase of one start, in their order."""

    boot_s: float
    fetch_s: float
    load_s: float
    compile_s: float
    warm_up_s: float

    @property
    def total_s(self) -> float:
        return self.boot_s + self.fetch_s + self.load_s + self.compile_s + self.warm_up_s


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One model's start. ``fetch`` and ``compile`` happen only on a node that does not have the model; on one that has,
    ``boot_again`` and ``warm_up_again`` take the place of ``boot`` and ``warm_up``. ``cached_gib`` is what it takes of
    a node's cache."""

    cached_gib: float
    boot: Duration
    fetch: Duration
    load: Duration
    compile: Duration
    warm_up: Duration
    boot_again: Duration
    warm_up_again: Duration

    @property
    def long_s(self) -> float:
        """Of a first start on a node that hardly any exceeds: each phase three standard deviations above its median."""
        return sum(phase.at(3.0) for phase in (self.boot, self.fetch, self.load, self.compile, self.warm_up))


@dataclass(slots=True)
class _Entry:
    """A model in a node's cache, whole from ``ready_at`` on."""

    gib: float
    ready_at: float


class NodeCaches:
    """What each node has, ``capacity_gib`` of it at most; a larger model is never kept."""

    def __init__(self, capacity_gib: float) -> None:
        self._capacity_gib = capacity_gib
        self._nodes: dict[int, OrderedDict[str, _Entry]] = {}

    def ready_at(self, node: int, model_id: str) -> float | None:
        """When the node has the model, perhaps in the past; None if it has to be fetched."""
        cache = self._nodes.get(node)
        return cache[model_id].ready_at if cache is not None and model_id in cache else None

    def use(self, node: int, model_id: str, gib: float, ready_at: float) -> None:
        """The node has, or will have, the model, and uses it now."""
        cache = self._nodes.setdefault(node, OrderedDict())
        if model_id in cache:
            cache.move_to_end(model_id)
            return
        if gib > self._capacity_gib:
            return
        cache[model_id] = _Entry(gib, ready_at)
        while sum(entry.gib for entry in cache.values()) > self._capacity_gib:
            cache.popitem(last=False)


class ColdStarts:
    """The starts of a run. What is drawn for a replica depends on ``seed`` and its name alone, so that runs of two
    policies draw the same."""

    def __init__(self, seed: int, models: Mapping[str, ColdStart], caches: NodeCaches) -> None:
        self._seed = seed
        self._models = models
        self._caches = caches

    def knows(self, model_id: str) -> bool:
        return model_id in self._models

    def begin(self, replica_id: str, model_id: str, nodes: Iterable[int], at: float) -> StartPhases:
        """A job of this replica starts on ``nodes`` now; the slowest node counts. Raises ``KeyError`` for an unknown
        model."""
        model = self._models[model_id]
        scores = [self._score(replica_id, phase.name) for phase in fields(StartPhases)]
        boot, fetch, load, compile_, warm_up = scores
        known = {node: self._caches.ready_at(node, model_id) for node in nodes}
        waits_until = max((ready_at for ready_at in known.values() if ready_at is not None), default=at)
        if all(ready_at is not None for ready_at in known.values()):
            boot_s = model.boot_again.at(boot)
            fetch_s = max(0.0, waits_until - at - boot_s)
            phases = StartPhases(boot_s, fetch_s, model.load.at(load), 0.0, model.warm_up_again.at(warm_up))
        else:
            phases = StartPhases(
                model.boot.at(boot), model.fetch.at(fetch), model.load.at(load), model.compile.at(compile_),
                model.warm_up.at(warm_up),
            )  # fmt: skip
        for node in known:
            self._caches.use(node, model_id, model.cached_gib, at + phases.boot_s + phases.fetch_s)
        return phases

    def _score(self, replica_id: str, phase: str) -> float:
        digest = blake2b(f"{self._seed}/{replica_id}/{phase}".encode(), digest_size=8).digest()
        return _NORMAL.inv_cdf(((int.from_bytes(digest, "big") >> 11) + 0.5) * 2.0**-53)
