"""Snapshots that workers wrote, as a broker takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from structlog.testing import capture_logs

from broker.app.measurements import SnapshotFeed
from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.observation import Observation
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, ModelState
from tests.support.actuator_worlds import SetClock
from tests.support.builders import START, model_snapshot, model_spec

PATIENCE_S = 15.0


@dataclass
class Record:
    """As aiokafka has it."""

    key: str
    value: bytes | None
    offset: int
    timestamp: float


class Taken:
    def __init__(self, restored: BrokerState | None = None) -> None:
        self.clock = SetClock(START)
        self.offered: list[Observation] = []
        connection = Connection(("127.0.0.1:1",))
        self.feed = SnapshotFeed(
            connection, Layout("t"), self.clock, self.offered.append, PATIENCE_S, restored or BrokerState()
        )

    def take(self, snapshot: ModelSnapshot, at: float) -> bool:
        before = len(self.offered)
        self.feed.take(wire.dumps(snapshot).encode(), at)
        return len(self.offered) > before


def test_a_snapshot_is_as_old_as_its_place_in_the_log_whatever_its_worker_thinks() -> None:
    taken = Taken()
    told = replace(model_snapshot(), received_at=START + 300.0)
    taken.take(told, START - 2.0)
    taken.take(replace(told, sequence=2), START + 60.0)  # the cluster's clock is ahead of ours
    assert taken.offered == [
        replace(told, received_at=START - 2.0), replace(told, sequence=2, received_at=START),
    ]  # fmt: skip


def test_what_an_earlier_owner_still_says_is_dropped() -> None:
    taken = Taken()
    assert taken.take(model_snapshot(sequence=1007), START - 3.0)
    assert not taken.take(model_snapshot(sequence=9), START - 2.0)
    assert not taken.take(model_snapshot(sequence=1007), START - 1.0)
    assert taken.take(model_snapshot("code", sequence=9), START - 1.0)
    assert taken.take(model_snapshot(sequence=1008), START)


def test_what_the_last_leaders_steps_took_in_is_passed_over() -> None:
    known = {("model", model_id): ModelState(model_id, model_spec(model_id), target=1) for model_id in ("chat", "code")}
    known["model", "chat"] = replace(known["model", "chat"], snapshot=model_snapshot(sequence=7, at=START - 2.0))
    taken = Taken(BrokerState().with_changes(known))
    assert not taken.take(model_snapshot(sequence=6), START - 3.0)
    assert not taken.take(model_snapshot(sequence=7), START - 2.0)
    assert taken.take(model_snapshot(sequence=8), START - 1.0)
    assert taken.take(model_snapshot("code", sequence=1), START - 1.0)


def test_numbers_that_begin_anew_are_believed_once_nothing_else_has_come_for_the_patience() -> None:
    taken = Taken()
    taken.clock.at = START + 100.0
    taken.take(model_snapshot(sequence=1007), START)
    assert not taken.take(model_snapshot(sequence=1), START + PATIENCE_S)
    assert taken.take(model_snapshot(sequence=2), START + PATIENCE_S + 0.1)
    assert taken.take(model_snapshot(sequence=3), START + PATIENCE_S + 1.0)


async def test_a_tombstone_and_garbage_are_passed_over_and_told_of_in_one_line() -> None:
    taken = Taken()
    values = {"gone": None, "bad": b"{", "worse": b"{}", "good": wire.dumps(model_snapshot()).encode()}
    with capture_logs() as lines:
        await taken.feed.take_all(
            [Record(key, value, offset, START * 1e3) for offset, (key, value) in enumerate(values.items())]
        )
    assert len(taken.offered) == 1
    assert [(line["event"], line["count"]) for line in lines] == [("snapshots_bad", 2)]
    assert lines[0]["first_problem"].startswith("offset 1: not JSON")
