"""The simulated world held against the broker's records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.model.errors import InvariantViolated
from broker.model.replica import Drain, Replica, ReplicaPhase, StopMode, Tier
from broker.model.state import BrokerState
from simulator.checks.world import Account, Process, World, check_world

NAME = "chat-0-g1"
REPLICA = Replica(
    NAME, "chat", "pool", ordinal=0, generation=1, tier=Tier.BASELINE, gpus=2, phase=ReplicaPhase.READY,
    phase_since=50.0, requested_at=1.0, url="http://chat", revision=1, published=True,
)  # fmt: skip
PROCESS = Process(NAME, "chat", "pool", "launch-1", 2)
SOUND = World((PROCESS,), {"pool": 2}, {"chat": (NAME,)}, accounts=(Account("requests", 3, 3),))
DRAIN = Drain("scale_in", began_at=40.0, deadline_at=100.0, revision=2)
STOPPING = replace(REPLICA, phase=ReplicaPhase.STOPPING, published=False, drain=DRAIN, stop_mode=StopMode.GRACEFUL)


def state(*records: Replica) -> BrokerState:
    return BrokerState().with_changes({("replica", record.replica_id): record for record in records})


def test_what_is_as_the_records_say_is_sound() -> None:
    check_world(SOUND, state(REPLICA))
    check_world(World(), BrokerState())


BROKEN = {
    "a request may go to what is draining": (5, SOUND, replace(REPLICA, phase=ReplicaPhase.DRAINING)),
    "a request may go to what is not published": (5, SOUND, replace(REPLICA, published=False)),
    "a request may go to nobody": (5, replace(SOUND, processes=()), REPLICA),
    "a request may go to another model": (
        5, replace(SOUND, processes=(replace(PROCESS, model_id="code"),)), REPLICA,
    ),
    "something runs without a record": (
        4, replace(SOUND, processes=(PROCESS, replace(PROCESS, replica_id="ghost", action_id="launch-2"))), REPLICA,
    ),
    "one launch started two": (4, replace(SOUND, processes=(PROCESS, replace(PROCESS, replica_id="twin"))), REPLICA),
    "a pool holds more than it has": (6, replace(SOUND, gpus={"pool": 1}), REPLICA),
    "a replica holds more than was asked for": (
        6, replace(SOUND, processes=(replace(PROCESS, gpus=1),)), REPLICA,
    ),
    "a replica is in another pool": (6, SOUND, replace(REPLICA, pool_id="other")),
    "the books differ": (9, replace(SOUND, accounts=(Account("requests", 3, 4),)), REPLICA),
    "a drained replica cut an answer": (1, World(cut=(NAME,)), STOPPING),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_must_not_be_is_told_with_its_number(case: str) -> None:
    invariant, world, record = BROKEN[case]
    with pytest.raises(InvariantViolated) as raised:
        check_world(world, state(record))
    assert raised.value.invariant == invariant


CUT = {
    "the drain limit had passed": replace(STOPPING, phase_since=100.0),
    "what was still open is counted": replace(STOPPING, in_flight_at_stop=1),
    "it was never drained": replace(STOPPING, drain=None),
    "nobody told it to exit": replace(STOPPING, phase=ReplicaPhase.DRAINING, stop_mode=None),
}


@pytest.mark.parametrize("case", CUT)
def test_an_answer_may_be_cut_where(case: str) -> None:
    check_world(World(cut=(NAME,)), state(CUT[case]))
