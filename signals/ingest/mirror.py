"""What workers and scrapers know of the models on record: a mirror of the broker's state, followed from its topic.

Only what windows are laid out by, and where replicas are read: the limits, each model's declaration, each replica's
phase and address. A model's state changes with each of its snapshots, a thousand times a second on a large site; what
is of no interest is not even decoded.
"""

from __future__ import annotations

from typing import Any

from broker.model import wire
from broker.model.replica import Replica
from broker.model.spec import ModelSpec
from broker.model.state import BrokerState, ControlState, Entity, EntityKey, ModelState


class StateMirror:
    """``state`` holds what was told so far; ``changed_at`` when it was that a model was last told anew."""

    def __init__(self) -> None:
        self.state = BrokerState()
        self.changed_at: dict[str, float] = {}
        self._specs: dict[str, Any] = {}

    def apply(self, key: EntityKey, data: Any, at: float) -> set[str]:
        """The entity of ``key`` is now ``data`` (plain JSON; None: gone), since ``at``. The models that look different
        for it. Raises ``WireError``."""
        kind, name = key
        match kind:
            case "model":
                touched = self._model(name, data)
            case "replica":
                touched = self._replica(name, data)
            case "control":
                touched = self._control(data)
            case _:
                return set()
        self.changed_at.update(dict.fromkeys(touched, at))
        return touched

    def _model(self, model_id: str, data: Any) -> set[str]:
        if data is None:
            if self._specs.pop(model_id, None) is None:
                return set()
            self._change(("model", model_id), None)
            return {model_id}
        declared = data.get("spec")
        if declared is not None and self._specs.get(model_id) == declared:
            return set()
        spec = wire.decode(ModelSpec, declared)
        self._specs[model_id] = declared
        self._change(("model", model_id), ModelState(model_id, spec, target=0))
        return {model_id}

    def _replica(self, replica_id: str, data: Any) -> set[str]:
        if data is None:
            owner = {model_id for model_id, known in self.state.replicas.items() if replica_id in known}
            if owner:
                self._change(("replica", replica_id), None)
            return owner
        replica = wire.decode(Replica, data)
        known = self.state.replicas_of(replica.model_id).get(replica_id)
        if known is not None and (known.phase, known.url) == (replica.phase, replica.url):
            return set()
        self._change(("replica", replica_id), replica)
        return {replica.model_id}

    def _control(self, data: Any) -> set[str]:
        control = ControlState() if data is None else wire.decode(ControlState, data)
        before, after = self.state.control.site, control.site
        if before == after:
            return set()
        self._change(("control", ""), control)
        limits = (before and before.limits) != (after and after.limits)
        return set(self.state.models) if limits else set()

    def _change(self, key: EntityKey, entity: Entity | None) -> None:
        self.state = self.state.with_changes({key: entity})
