"""What the models of one run are asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from traces.schema import Requests, TraceRequest, as_requests
from traces.shape import asking, together


@dataclass(frozen=True, slots=True)
class Demand:
    """``requests`` in order of arrival, none of them a failed one; each asks the model that its column names. All names
    are known from the start: a model that is asked nothing is still one of the run's."""

    requests: Requests

    @property
    def models(self) -> tuple[str, ...]:
        return self.requests.models.names


def demand_of(model_id: str, requests: Iterable[TraceRequest]) -> Demand:
    """All of ``requests`` to one model, whatever they were recorded for."""
    return Demand(asking(model_id, requests))


def demand_by_model(requests: Mapping[str, Iterable[TraceRequest]]) -> Demand:
    """Each model's own requests, read side by side: memory does not grow with their length."""
    return Demand(together([(model_id, as_requests(of_model)) for model_id, of_model in requests.items()]))
