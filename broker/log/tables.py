"""Rows of the embedded log: every statement that reads or writes one, each row with its checksum.

``steps`` holds what a replay needs and what it is verified against; ``entities`` and ``endpoints`` are what the
steps add up to, kept so that a broker starts without replaying. A record is as old as the step that came after it:
the log has no clock of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from broker.log.codec import (
    StepText,
    checksum,
    decision_from_text,
    endpoint_from_text,
    entity_from_text,
    from_text,
    state_from_text,
    state_to_text,
    step_from_text,
    step_to_text,
)
from broker.log.rules import require_next, require_past
from broker.model.errors import LogDamaged, WireError
from broker.model.plan import Decision
from broker.model.ports import Checkpoint, Epoch, StepRecord
from broker.model.replica import EndpointRecord, ReplicaPhase
from broker.model.spec import JsonValue
from broker.model.state import BrokerState

P = ParamSpec("P")
T = TypeVar("T")

TRIM_ROWS = 500
"""Rows forgotten in one transaction: commits that wait behind it wait some milliseconds only."""
VACUUM_PAGES = 1000
"""Pages given back to the file system in one transaction, for the same reason."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log stands: its last leader's ``epoch``, its last step, and the last step that was trimmed."""

    epoch: Epoch
    step: int
    now: float
    trimmed: int


def read_head(connection: sqlite3.Connection) -> Head:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    try:
        return Head(
            Epoch(int(meta["epoch"]), str(meta["holder"])), int(meta["step"]), float(meta["now"]), int(meta["trimmed"])
        )
    except (KeyError, ValueError) as error:
        raise LogDamaged(f"the log's table meta is not whole: {error}") from None


def write_meta(connection: sqlite3.Connection, **values: object) -> None:
    connection.executemany("UPDATE meta SET value = ? WHERE key = ?", [(value, key) for key, value in values.items()])


def write_step(connection: sqlite3.Connection, record: StepRecord) -> None:
    """One step and all that follows from it. Everything is checked and encoded before the first row is written."""
    head = read_head(connection)
    require_next(record, epoch=head.epoch.number, last=head.step)
    text = step_to_text(record)
    connection.execute(
        "INSERT INTO steps VALUES (?, ?, ?, ?, ?)",
        (
            record.number,
            record.epoch,
            record.now,
            text.body,
            checksum(record.number, record.epoch, record.now, text.body),
        ),
    )
    connection.executemany(
        "INSERT INTO decisions (step, model_id, at, body, checksum) VALUES (?, ?, ?, ?, ?)",
        [
            (record.number, decision.model_id, decision.now, body, checksum(record.number, body))
            for decision, body in zip(record.decisions, text.decisions, strict=True)
        ],
    )
    _write_outcome(connection, record, text)


def write_beginning(connection: sqlite3.Connection, beginning: Checkpoint, registry: Iterable[EndpointRecord]) -> None:
    """Into a new log: the state that its steps go on from, and the registry."""
    changes = beginning.state.entities()
    whole = StepRecord(beginning.number, 0, beginning.now, (), changes, registry=tuple(registry))
    _write_outcome(connection, whole, step_to_text(whole))
    write_meta(connection, trimmed=beginning.number)
    if beginning.number:
        write_checkpoint(connection, beginning)


def _write_outcome(connection: sqlite3.Connection, record: StepRecord, text: StepText) -> None:
    for key, entity in text.entities:
        if entity is None:
            connection.execute("DELETE FROM entities WHERE kind = ? AND id = ?", key)
        else:
            connection.execute(
                "INSERT INTO entities (kind, id, body, checksum) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body, checksum = excluded.checksum",
                (*key, entity, checksum(*key, entity)),
            )
    for endpoint, body in zip(record.registry, text.endpoints, strict=True):
        if endpoint.phase is ReplicaPhase.GONE:
            connection.execute("DELETE FROM endpoints WHERE endpoint_id = ?", (endpoint.endpoint_id,))
        else:
            connection.execute(
                "INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?)",
                (endpoint.endpoint_id, body, checksum(endpoint.endpoint_id, body)),
            )
    write_meta(connection, step=record.number, now=record.now)


def write_checkpoint(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    require_past(checkpoint, read_head(connection).step)
    body = state_to_text(checkpoint.state)
    connection.execute(
        "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)",
        (checkpoint.number, checkpoint.now, body, checksum(checkpoint.number, checkpoint.now, body)),
    )


def write_records(connection: sqlite3.Connection, topic: str, body: str) -> None:
    """``body`` is a JSON array of records."""
    after_step = read_head(connection).step
    connection.execute(
        "INSERT INTO records (topic, after_step, body, checksum) VALUES (?, ?, ?, ?)",
        (topic, after_step, body, checksum(topic, after_step, body)),
    )


def trim_some(connection: sqlite3.Connection, before: float) -> bool:
    """Forget up to ``TRIM_ROWS`` old steps and rows of records, give their pages back; True if there is more."""
    head = read_head(connection)
    older = _first_value(connection, "SELECT number FROM steps WHERE now < ? ORDER BY now DESC, number DESC", before)
    base = _first_value(connection, "SELECT number FROM checkpoints WHERE now < ? ORDER BY number DESC", before)
    last_record, records = connection.execute(
        "SELECT max(sequence), count(*) FROM (SELECT sequence, after_step FROM records ORDER BY sequence LIMIT ?)"
        " WHERE after_step < ?",
        (TRIM_ROWS, older),
    ).fetchone()
    connection.execute("DELETE FROM records WHERE sequence <= ?", (last_record or 0,))
    connection.execute("DELETE FROM checkpoints WHERE number < ?", (base,))
    trimmed = min(base, head.trimmed + TRIM_ROWS)
    if trimmed > head.trimmed:
        connection.execute("DELETE FROM steps WHERE number <= ?", (trimmed,))
        connection.execute("DELETE FROM decisions WHERE step <= ?", (trimmed,))
        write_meta(connection, trimmed=trimmed)
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(records == TRIM_ROWS or head.trimmed < trimmed < base or free_pages)


def _first_value(connection: sqlite3.Connection, query: str, before: float) -> int:
    """The first row's number, 0 without a row."""
    row = connection.execute(f"{query} LIMIT 1", (before,)).fetchone()
    return 0 if row is None else int(row[0])


def read_state(connection: sqlite3.Connection) -> Checkpoint:
    """The state after the last step. The caller holds a transaction, so that both are of one moment."""
    head = read_head(connection)
    entities = {}
    for kind, key, body, kept in connection.execute("SELECT kind, id, body, checksum FROM entities ORDER BY sequence"):
        where = f"the state of {kind} {key!r}"
        require_checksum(where, kept, kind, key, body)
        entities[kind, key] = decoded(where, entity_from_text, body)
    return Checkpoint(head.step, head.now, BrokerState().with_changes(entities))


def read_checkpoint(connection: sqlite3.Connection, after: int) -> Checkpoint | None:
    """The oldest checkpoint with a number above ``after``."""
    return _checkpoint(connection, "number > ? ORDER BY number", after)


def read_checkpoint_before(connection: sqlite3.Connection, now: float) -> Checkpoint | None:
    """The newest checkpoint of a time before ``now``."""
    return _checkpoint(connection, "now < ? ORDER BY number DESC", now)


def _checkpoint(connection: sqlite3.Connection, which: str, value: float) -> Checkpoint | None:
    row = connection.execute(
        f"SELECT number, now, body, checksum FROM checkpoints WHERE {which} LIMIT 1", (value,)
    ).fetchone()
    if row is None:
        return None
    number, now, body, kept = row
    where = f"the checkpoint of step {number}"
    require_checksum(where, kept, number, now, body)
    return Checkpoint(number, now, decoded(where, state_from_text, body))


def read_steps(connection: sqlite3.Connection, after: int, limit: int) -> list[StepRecord]:
    """Up to ``limit`` steps from ``after`` on. Raises ``LogDamaged`` naming a step that is missing or changed."""
    head = read_head(connection)
    first = max(after, head.trimmed) + 1
    last = min(head.step, first + limit - 1)
    decisions: dict[int, list[str]] = {}
    for step, body, kept in connection.execute(
        "SELECT step, body, checksum FROM decisions WHERE step BETWEEN ? AND ? ORDER BY sequence", (first, last)
    ):
        require_checksum(f"a decision of step {step}", kept, step, body)
        decisions.setdefault(step, []).append(body)
    records = []
    rows = connection.execute("SELECT * FROM steps WHERE number BETWEEN ? AND ? ORDER BY number", (first, last))
    for expected in range(first, last + 1):
        row = rows.fetchone()
        if row is None or row[0] != expected:
            raise LogDamaged(f"step {expected} is missing")
        number, epoch, now, body, kept = row
        where = f"step {number}"
        require_checksum(where, kept, number, epoch, now, body)
        records.append(decoded(where, step_from_text, number, epoch, now, body, decisions.get(number, ())))
    return records


def read_decisions(connection: sqlite3.Connection, model_id: str | None, since: float, limit: int) -> list[Decision]:
    of_model = "" if model_id is None else "model_id = :model_id AND"
    rows = connection.execute(
        f"SELECT step, body, checksum FROM decisions WHERE {of_model} at >= :since"
        " ORDER BY at DESC, sequence DESC LIMIT :limit",
        {"model_id": model_id, "since": since, "limit": limit},
    )
    found = []
    for step, body, kept in rows:
        where = f"a decision of step {step}"
        require_checksum(where, kept, step, body)
        found.append(decoded(where, decision_from_text, body))
    return found


def read_endpoints(connection: sqlite3.Connection) -> list[EndpointRecord]:
    found = []
    for endpoint_id, body, kept in connection.execute("SELECT * FROM endpoints ORDER BY endpoint_id"):
        where = f"the endpoint {endpoint_id!r}"
        require_checksum(where, kept, endpoint_id, body)
        found.append(decoded(where, endpoint_from_text, body))
    return found


def read_records(
    connection: sqlite3.Connection, topic: str, after: int, limit: int
) -> list[tuple[int, list[JsonValue]]]:
    """Up to ``limit`` rows of ``topic`` after row ``after``: each row's number and its records."""
    found = []
    for sequence, after_step, body, kept in connection.execute(
        "SELECT sequence, after_step, body, checksum FROM records WHERE topic = ? AND sequence > ?"
        " ORDER BY sequence LIMIT ?",
        (topic, after, limit),
    ):
        where = f"records of topic {topic} after step {after_step}"
        require_checksum(where, kept, topic, after_step, body)
        found.append((sequence, decoded(where, from_text, body)))
    return found


def require_checksum(where: str, kept: int, *parts: object) -> None:
    if checksum(*parts) != kept:
        raise LogDamaged(f"{where} is not what was written")


def decoded(where: str, decoder: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return decoder(*args, **kwargs)
    except WireError as error:
        raise LogDamaged(f"{where} cannot be read: {error}") from None
