"""``clairvoyant``: a policy that executes a ``ReplicaTimetable`` through the production core.

It lives with the simulator and not in ``policies``: in production nobody knows the future. A policy says how many
replicas a model is to have and how many of them on dedicated capacity, so that pools are kept apart by their tiers:
counts of pools that take baseline replicas become the baseline, the others the elastic part. Pools of the same tier
fill in the order in which the site declares them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass

from broker.model.errors import ConfigError
from broker.model.plan import Recommendation
from broker.model.snapshot import FleetSnapshot, WindowNeed
from broker.model.spec import PolicySpec
from broker.model.state import Memory
from policies.base import Policy, PolicyFactory
from policies.parameters import read_parameters
from simulator.oracle.plan import ReplicaTimetable

KIND = "clairvoyant"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClairvoyantParameters:
    """``times``: epoch seconds, ascending; from each on ``targets`` replicas, of them ``baselines`` dedicated."""

    times: tuple[float, ...]
    targets: tuple[int, ...]
    baselines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClairvoyantPolicy:
    parameters: ClairvoyantParameters

    @property
    def kind(self) -> str:
        return KIND

    def needs(self) -> tuple[WindowNeed, ...]:
        return ()

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        given = self.parameters
        line = bisect_right(given.times, snapshot.now) - 1
        until = given.times[line + 1] if line + 1 < len(given.times) else None
        target, baseline = (given.targets[line], given.baselines[line]) if line >= 0 else (0, 0)
        words = f"line {line + 1} of the clairvoyant timetable asks for {target}"
        return Recommendation(target, baseline, KIND, words, shaped=True, valid_until=until), {}


def clairvoyant_spec(timetable: ReplicaTimetable, *, start_at: float, baseline_pools: Collection[str]) -> PolicySpec:
    """The declaration that executes ``timetable`` in a run whose second 0 is ``start_at``."""
    totals = [sum(counts) for counts in zip(*timetable.targets, strict=True)]
    dedicated = [
        counts
        for pool_id, counts in zip(timetable.pool_ids, timetable.targets, strict=True)
        if pool_id in baseline_pools
    ]
    baselines = [sum(counts) for counts in zip(*dedicated, strict=True)] if dedicated else [0] * len(totals)
    times = [start_at + time_s for time_s in timetable.times_s]
    return PolicySpec(KIND, {"times": [*times], "targets": [*totals], "baselines": [*baselines]})


def with_clairvoyant(policies: PolicyFactory) -> PolicyFactory:
    """``policies``, and ``clairvoyant`` besides. Each declaration's policy is built once, by identity."""
    built: dict[int, tuple[PolicySpec, Policy]] = {}

    def policy_of(spec: PolicySpec) -> Policy:
        if spec.kind != KIND:
            return policies(spec)
        known = built.get(id(spec))
        if known is None or known[0] is not spec:
            known = built[id(spec)] = spec, build_clairvoyant(spec)
        return known[1]

    return policy_of


def build_clairvoyant(spec: PolicySpec) -> ClairvoyantPolicy:
    """Raises ``ConfigError`` with the field that is wrong."""
    given = read_parameters(ClairvoyantParameters, spec)
    if not len(given.times) == len(given.targets) == len(given.baselines):
        raise ConfigError("times, targets and baselines are of one length", field="times")
    if any(not math.isfinite(time) for time in given.times) or list(given.times) != sorted(set(given.times)):
        raise ConfigError("times rise", field="times")
    if any(not 0 <= baseline <= target for baseline, target in zip(given.baselines, given.targets, strict=True)):
        raise ConfigError("a baseline lies between 0 and its target", field="baselines")
    return ClairvoyantPolicy(given)
