"""Steps as messages: cut into parts and put together again, and what is refused to be read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.log.codec import whole_step_from_text
from broker.log.kafka.ledger import Ledger
from broker.log.kafka.messages import (
    MARKER_KEY,
    Found,
    Joiner,
    Lease,
    Message,
    ending_messages,
    lease_from,
    lease_messages,
    parts,
    record_from,
)
from broker.log.kafka.topics import KEPT_BY_LEADER, TOPICS, Layout, markdown_table
from broker.model.errors import LogDamaged, SchemaTooNew, WireError
from tests.support.builders import START, replica, step_record
from tests.support.shared_data import REPOSITORY

LIMIT_BYTES = 2**16


@dataclass(frozen=True)
class Record:
    """As aiokafka gives it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    offset: int
    timestamp: int = 0


def records_of(messages: list[Message]) -> list[Record]:
    cut = [(message, value, headers) for message in messages for value, headers in parts(message, LIMIT_BYTES)]
    return [Record(message.key, value, headers, offset) for offset, (message, value, headers) in enumerate(cut)]


def joined(records: list[Record]) -> list[bytes | None]:
    joiner = Joiner()
    return [found.value for record in records if (found := joiner.whole(record)) is not None]


def message(text: str | None, number: int) -> Message:
    return Message("observations", text, str(number).encode(), {"schema": "tidegate.step/1", "step": number})


@given(st.lists(st.integers(0, 4 * LIMIT_BYTES), min_size=1, max_size=4))
def test_what_is_cut_comes_back_whole_in_either_direction(sizes: list[int]) -> None:
    texts = ["x" * size for size in sizes]
    records = records_of([message(text, number) for number, text in enumerate(texts)])
    assert all(len(record.value or b"") < LIMIT_BYTES for record in records)
    values = [text.encode() for text in texts]
    assert joined(records) == values
    assert joined(records[::-1]) == values[::-1]


def test_parts_whose_others_are_out_of_sight_are_left_out() -> None:
    records = records_of([message("a" * 3 * LIMIT_BYTES, 1), message("b" * 2 * LIMIT_BYTES, 2), message("c", 3)])
    assert joined(records[1:]) == [b"b" * 2 * LIMIT_BYTES, b"c"]
    assert joined(records[:-2][::-1]) == [b"a" * 3 * LIMIT_BYTES]


def test_a_foreign_message_among_parts_is_told_from_them_whatever_its_headers_are() -> None:
    first, second = records_of([Message("state", "a" * 2 * LIMIT_BYTES, b"1", {"schema": "tidegate.entity/1"})])[:2]
    foreign = Record(b"\xfe", b"\xff", [("part", b"\xff"), ("schema", b"\xff")], 7)
    joiner = Joiner()
    found = [joiner.whole(record) for record in (first, foreign, second)]
    assert [one and one.ours for one in found][:2] == [None, False]


@pytest.mark.parametrize("part", ["", "2", "a/b", "1/0", "-1/2", "1/2/3", "1/99999999"])
def test_a_part_or_a_step_that_is_none_is_taken_for_what_it_is(part: str) -> None:
    """In topics that others write too, anything may come to stand there."""
    for step in (b"next", b"9" * 5000):  # more digits than Python takes for a number
        headers = [("schema", b"tidegate.step/1"), ("part", part.encode()), ("step", step)]
        found = Joiner().whole(Record(b"1", b"{}", headers, 7))
        assert found is not None
        assert (found.value, found.step) == (b"{}", None)


def test_a_tombstone_that_calls_itself_a_part_is_a_tombstone() -> None:
    """One among the dead letters, or the scrapers' beats, ended every process that read them."""
    found = Joiner().whole(Record(b"1", None, [("schema", b"tidegate.step/1"), ("part", b"1/1")], 7))
    assert found is not None
    assert found.value is None


def test_a_marker_is_told_from_what_is_of_a_model_of_its_name() -> None:
    (decision,) = Ledger(Lease(1)).records("requests", [{"model_id": MARKER_KEY.decode()}])
    found = [Joiner().whole(record) for record in records_of([*ending_messages(), decision])]
    assert [one and one.marks for one in found] == [True] * (len(found) - 1) + [False]


def test_a_tombstone_has_no_text() -> None:
    (record,) = records_of([message(None, 1)])
    assert record.value is None


def test_a_lease_ends_every_transaction_and_comes_back() -> None:
    lease = Lease(3, "somebody", 7, START)
    records = records_of(list(lease_messages(lease)))
    joiner = Joiner()
    assert [lease_from(found) for record in records if (found := joiner.whole(record))] == [lease, lease]


def test_a_newer_or_foreign_message_is_refused() -> None:
    with pytest.raises(SchemaTooNew, match="the step at offset 5 has version 2"):
        Found(b"1", b"{}", {"schema": "tidegate.step/2"}, 5, 0).decoded("step", str)
    with pytest.raises(LogDamaged, match="the step at offset 5 cannot be read"):
        Found(b"1", b"{", {"schema": "tidegate.step/1"}, 5, 0).decoded("step", whole_step_from_text)
    for headers in ({}, {"schema": "tidegate.lease/1"}, {"schema": "tidegate.step/new"}):
        with pytest.raises(LogDamaged, match="offset 5"):
            Found(b"1", b"{}", headers, 5, 0).decoded("step", str)


def test_what_others_wrote_is_read_without_headers() -> None:
    assert record_from(Found(None, b'{"n":1}', {}, 0, 0)) == {"n": 1}


def test_entities_keep_their_place_until_they_go() -> None:
    ledger = Ledger(Lease(1))
    ledger.step(step_record(1, changes={("replica", key): replica(key) for key in ("c", "a")}))
    ledger.step(step_record(2, changes={("replica", "c"): replica("c", at=START + 1), ("replica", "a"): None}))
    ledger.step(step_record(3, changes={("replica", "b"): replica("b"), ("replica", "a"): replica("a")}))
    assert sorted(ledger.arrivals, key=lambda key: ledger.arrivals[key]) == [
        ("replica", "c"),
        ("replica", "b"),
        ("replica", "a"),
    ]
    assert ledger.lease == Lease(1, "", 3, START + 3)


def test_a_refused_step_changes_nothing() -> None:
    ledger = Ledger(Lease(1))
    ledger.step(step_record(1, changes={("replica", "a"): replica("a")}))
    before = ledger.copy()
    for wrong in (step_record(3), step_record(2, now=math.nan), step_record(2, now=-1.0)):
        with pytest.raises((LogDamaged, WireError)):
            ledger.step(wrong)
        assert ledger == before


def test_records_of_a_model_are_kept_together() -> None:
    ours, none = Ledger(Lease(1)).records("requests", [{"model_id": "chat"}, 3])
    assert (ours.key, ours.partition) == (b"chat", None)
    assert (none.key, none.partition) == (None, 0)


def test_the_page_shows_the_topics_as_they_are() -> None:
    page = (REPOSITORY / "docs" / "kafka.md").read_text()
    assert markdown_table(Layout("tidegate.CLUSTER")) in page


def test_what_the_broker_writes_is_kept_until_it_trims_it_and_may_be_stamped_by_its_own_clock() -> None:
    for name in ("observations", "checkpoints", "decisions", "usage", "dead-letters"):
        configs = TOPICS[name].configs(Layout("x"))
        assert configs["retention.ms"] == "-1"
        assert configs["message.timestamp.type"] == "CreateTime"
        assert int(configs["message.timestamp.after.max.ms"]) > 10**18


def test_what_ends_forgotten_transactions_reaches_each_topic_of_the_leaders_with_the_lease() -> None:
    reached = {message.topic for message in [*ending_messages(), *lease_messages(Lease())]}
    assert reached == {*KEPT_BY_LEADER}
