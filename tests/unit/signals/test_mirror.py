"""What a worker knows of the models on record, by what the broker wrote down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.model import wire
from broker.model.errors import WireError
from broker.model.replica import ReplicaPhase
from broker.model.spec import Limits
from broker.model.state import ControlState, Entity, EntityKey, ModelState, PoolState
from signals.ingest.mirror import StateMirror
from tests.support.builders import model_snapshot, model_spec, replica, site_spec

MODEL = ModelState("chat", model_spec("chat"), target=1)
READY = replica("chat-0-g1", "chat")


def told(mirror: StateMirror, key: EntityKey, entity: Entity | None, at: float = 1.0) -> set[str]:
    """As it comes from the log."""
    data: Any = None if entity is None else wire.encode(entity, Entity)
    return mirror.apply(key, data, at)


def mirror_of_a_model() -> StateMirror:
    mirror = StateMirror()
    told(mirror, ("control", ""), ControlState(site=site_spec()))
    told(mirror, ("model", "chat"), MODEL)
    told(mirror, ("replica", "chat-0-g1"), READY)
    return mirror


def test_it_holds_what_windows_are_laid_out_by() -> None:
    state = mirror_of_a_model().state
    assert state.models["chat"].spec == MODEL.spec
    assert state.replicas_of("chat") == {"chat-0-g1": READY}
    assert state.control.site == site_spec()


NOTHING_NEW: dict[str, tuple[EntityKey, Entity]] = {
    "another snapshot": (("model", "chat"), replace(MODEL, snapshot=model_snapshot(), target=4)),
    "another detail of a replica": (("replica", "chat-0-g1"), replace(READY, detail="it hums")),
    "a pool": (("pool", "local"), PoolState("local")),
    "a higher revision": (("control", ""), ControlState(site=site_spec(), revision=7)),
}


@pytest.mark.parametrize("name", NOTHING_NEW)
def test_what_windows_do_not_depend_on_is_passed_over(name: str) -> None:
    mirror = mirror_of_a_model()
    before = mirror.state
    key, entity = NOTHING_NEW[name]
    assert told(mirror, key, entity, 9.0) == set()
    assert mirror.state is before
    assert mirror.changed_at == {"chat": 1.0}


NEWS: dict[str, tuple[EntityKey, Entity | None]] = {
    "another policy": (("model", "chat"), replace(MODEL, spec=replace(MODEL.spec, maximum=9))),
    "a replica that drains": (("replica", "chat-0-g1"), replace(READY, phase=ReplicaPhase.DRAINING)),
    "a replica with another address": (("replica", "chat-0-g1"), replace(READY, url="http://10.0.0.9:8000")),
    "a replica that came": (("replica", "chat-1-g1"), replica("chat-1-g1", "chat")),
    "a replica that is gone": (("replica", "chat-0-g1"), None),
    "a model that is gone": (("model", "chat"), None),
    "other limits": (("control", ""), ControlState(site=replace(site_spec(), limits=Limits(signal_patience_s=9.0)))),
}


@pytest.mark.parametrize("name", NEWS)
def test_what_changes_a_window_names_its_model_and_the_time(name: str) -> None:
    mirror = mirror_of_a_model()
    key, entity = NEWS[name]
    assert told(mirror, key, entity, 9.0) == {"chat"}
    assert mirror.changed_at["chat"] == 9.0


def test_what_was_never_known_and_is_gone_is_no_news() -> None:
    mirror = StateMirror()
    assert told(mirror, ("model", "chat"), None) == told(mirror, ("replica", "r"), None) == set()


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(WireError):
        StateMirror().apply(("replica", "r"), {"type": "replica"}, 1.0)
    with pytest.raises(WireError):
        StateMirror().apply(("model", "chat"), {"type": "model_state"}, 1.0)
