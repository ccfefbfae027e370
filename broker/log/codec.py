"""How steps, states and records become text in a durable log, and come back exactly.

The file's own version stands for all of its rows, so they carry no envelope. A decision is kept once, outside its
step's text, where it can be found by model and time; whoever reads a step puts the two together.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from broker.model import wire
from broker.model.errors import WireError
from broker.model.observation import Observation
from broker.model.plan import Decision, Effect
from broker.model.ports import StepRecord
from broker.model.replica import EndpointRecord
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, Changes, Entity, EntityKey, ModelState

_write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def checksum(*parts: object) -> int:
    """CRC-32 of the parts as text. It covers a row's columns too, so that a row moved or renamed is found out."""
    return zlib.crc32("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"))


def to_text(data: Any) -> str:
    """``data`` as one line of ASCII JSON. Raises ``WireError`` for what JSON cannot hold."""
    try:
        return _write_json(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"cannot be written as JSON: {error}") from None


def from_text(text: str) -> Any:
    """Raises ``WireError`` for anything but JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None


_SNAPSHOT_OF = "snapshot_of"
"""In a step's changes: the place among its observations of the snapshot that a model's state now holds."""


@dataclass(frozen=True, slots=True)
class StepText:
    """A step cut into what is kept apart. ``entities`` are the changed ones, None for those removed."""

    body: str
    entities: tuple[tuple[EntityKey, str | None], ...]
    decisions: tuple[str, ...]
    endpoints: tuple[str, ...]


def step_to_text(record: StepRecord) -> StepText:
    """Each part becomes text once and by itself: a step of 500 models in one piece would stop every other thread for
    as long as it takes."""
    observations = _texts(record.observations, Observation)
    places = {id(seen): place for place, seen in enumerate(record.observations) if isinstance(seen, ModelSnapshot)}
    entities: list[tuple[EntityKey, str | None]] = []
    changes: list[str] = []
    text: str | None
    for key, entity in record.changes.items():
        if isinstance(entity, ModelState) and (place := places.get(id(entity.snapshot))) is not None:
            text, change = _model_to_text(entity, place, observations[place])
        else:
            text = None if entity is None else to_text(wire.encode(entity, Entity))
            change = text or "null"
        entities.append((key, text))
        changes.append(f"[{to_text(key[0])},{to_text(key[1])},{change}]")
    endpoints = _texts(record.registry, EndpointRecord)
    parts = {
        "observations": observations,
        "changes": changes,
        "effects": _texts(record.effects, Effect),
        "registry": endpoints,
    }
    lists = "".join(f'"{name}":[{",".join(texts)}],' for name, texts in parts.items())
    return StepText(
        body=f'{{{lists}"decisions":{len(record.decisions)}}}',
        entities=tuple(entities),
        decisions=_texts(record.decisions, Decision),
        endpoints=endpoints,
    )


def _model_to_text(model: ModelState, place: int, snapshot: str) -> tuple[str, str]:
    """A model's state, whole and as a change of its step. Its snapshot is four fifths of it and is among the step's
    observations: it becomes text there only, and is not written into the step a second time."""
    data = wire.encode(replace(model, snapshot=None), Entity)
    del data["snapshot"]
    rest = to_text(data)[:-1]
    return f'{rest},"snapshot":{snapshot}}}', f'{rest},"{_SNAPSHOT_OF}":{place}}}'


def _texts(values: Iterable[object], hint: Any) -> tuple[str, ...]:
    return tuple(to_text(wire.encode(value, hint)) for value in values)


def step_from_text(number: int, epoch: int, now: float, body: str, decisions: Iterable[str]) -> StepRecord:
    """The inverse of ``step_to_text``. Raises ``WireError`` if ``decisions`` are not all there."""
    return _step_from(number, epoch, now, from_text(body), map(from_text, decisions))


def whole_step_text(record: StepRecord, text: StepText) -> str:
    """The step in one piece, for a log that a decision is not looked up in."""
    decided = ",".join(text.decisions)
    head = f'"number":{record.number},"epoch":{record.epoch},"now":{to_text(record.now)}'
    return f'{text.body[:-1]},"decided":[{decided}],{head}}}'


def whole_step_from_text(text: str) -> StepRecord:
    """The inverse of ``whole_step_text``."""
    data = from_text(text)
    return _step_from(data["number"], data["epoch"], data["now"], data, data["decided"])


def _step_from(number: int, epoch: int, now: float, data: Any, decisions: Iterable[Any]) -> StepRecord:
    decided = tuple(wire.decode(Decision, decision) for decision in decisions)
    if data["decisions"] != len(decided):
        raise WireError(f"{len(decided)} decisions where the step made {data['decisions']}", field="decisions")
    return StepRecord(
        number=number,
        epoch=epoch,
        now=now,
        observations=wire.decode(tuple[Observation, ...], data["observations"]),
        changes={(kind, key): _change_from(entity, data["observations"]) for kind, key, entity in data["changes"]},
        decisions=decided,
        effects=wire.decode(tuple[Effect, ...], data["effects"]),
        registry=wire.decode(tuple[EndpointRecord, ...], data["registry"]),
    )


def _change_from(entity: Any, observations: list[Any]) -> Entity | None:
    if entity is not None and _SNAPSHOT_OF in entity:
        entity = {**entity, "snapshot": observations[entity[_SNAPSHOT_OF]]}
    change: Entity | None = wire.decode(Entity | None, entity)
    return change


def decision_from_text(text: str) -> Decision:
    decision: Decision = wire.decode(Decision, from_text(text))
    return decision


def endpoint_from_text(text: str) -> EndpointRecord:
    endpoint: EndpointRecord = wire.decode(EndpointRecord, from_text(text))
    return endpoint


def entity_from_text(text: str) -> Entity:
    entity: Entity = wire.decode(Entity, from_text(text))
    return entity


def state_to_text(state: BrokerState) -> str:
    """Entity by entity, as with steps: 10,000 replicas in one piece stopped the event loop for a third of a second."""
    texts = (to_text([*key, wire.encode(entity, Entity)]) for key, entity in state.entities().items())
    return f"[{','.join(texts)}]"


def state_from_text(text: str) -> BrokerState:
    changes: Changes = {(kind, key): wire.decode(Entity, entity) for kind, key, entity in from_text(text)}
    return BrokerState().with_changes(changes)
