"""What the models of one run are asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from traces.conditions import PERFECT, MetricFaults
from traces.scenario import ReactingLoad, Scenario
from traces.schema import Requests, TraceRequest, as_requests
from traces.sessions import Script
from traces.shape import asking, one_of_several, together


@dataclass(frozen=True, slots=True)
class Demand:
    """``requests`` in order of arrival, none of them a failed one; each asks the model that its column names. All names
    are known from the start: a model that is asked nothing is still one of the run's. ``reacting`` are the loads whose
    clients wait for answers, under the same names; nothing is asked at ``until_s`` or later. ``metrics``: how the
    broker gets to know of it."""

    requests: Requests
    reacting: tuple[ReactingLoad, ...] = ()
    until_s: float = math.inf
    metrics: MetricFaults = PERFECT

    @property
    def models(self) -> tuple[str, ...]:
        return self.requests.models.names

    def asked_s(self) -> float:
        """For how long something is asked; reads the requests if nobody said."""
        if math.isfinite(self.until_s):
            return self.until_s
        return max((float(block.arrival_s[-1]) for block in self.requests.blocks()), default=0.0)


def demand_of(model_id: str, requests: Iterable[TraceRequest]) -> Demand:
    """All of ``requests`` to one model, whatever they were recorded for."""
    return Demand(asking(model_id, requests))


def demand_by_model(requests: Mapping[str, Iterable[TraceRequest]]) -> Demand:
    """Each model's own requests, read side by side: memory does not grow with their length."""
    return Demand(together([(model_id, as_requests(of_model)) for model_id, of_model in requests.items()]))


def demand_of_scenario(scenario: Scenario, seed: int) -> Demand:
    """Loads whose clients react wait for their answers; the others come as they would anyway."""
    steady = replace(scenario, loads=tuple(load for load in scenario.loads if not load.reacts))
    lively = replace(scenario, loads=tuple(load for load in scenario.loads if load.reacts))
    whole = steady.requests(seed)
    for model in scenario.models:
        whole.models.code(model)
    reacting = tuple(
        replace(load, scripts=_coded(load, len(steady.loads) + number, whole))
        for number, load in enumerate(lively.reacting(seed))
    )
    return Demand(whole, reacting, scenario.duration_s, scenario.metrics)


def _coded(load: ReactingLoad, number: int, whole: Requests) -> Iterator[Script]:
    """The load's scripts under the codes of the whole."""
    model = whole.models.code(load.model)
    for script in load.scripts:
        yield replace(script, block=one_of_several(script.block, load.tenants, number, model, whole.tenants))
