"""Which replicas a broker waits for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from broker.model.replica import ON_ITS_WAY, Replica
from broker.model.state import BrokerState

Named = list[tuple[str, str]]
"""Ids of replicas, each with its model's."""


class Awaited:
    """Asked twice a second for all replicas of a site, it looks only at what changed since it looked last: the state
    shares what did not."""

    def __init__(self) -> None:
        self._looked_at: Mapping[str, Mapping[str, Replica]] | None = None
        self._by_model: dict[str, tuple[Mapping[str, Replica], Named]] = {}
        self._all: Named = []

    def of(self, state: BrokerState) -> Named:
        """Those on their way there."""
        if state.replicas is not self._looked_at:
            self._looked_at = state.replicas
            for model_id, replicas in state.replicas.items():
                known = self._by_model.get(model_id)
                if known is None or known[0] is not replicas:
                    names = [(name, model_id) for name, record in replicas.items() if record.phase in ON_ITS_WAY]
                    self._by_model[model_id] = (replicas, names)
            self._all = [name for model_id in state.replicas for name in self._by_model[model_id][1]]
        return self._all
