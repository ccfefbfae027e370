"""The report's Parquet files: every request, decision and replica of a run, and its series. Needs pyarrow, an extra."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from broker.model import wire
from broker.model.errors import ConfigError
from broker.model.plan import Decision
from simulator.report.document import Series
from simulator.report.facts import NO_TENANT, Facts
from simulator.report.recorder import ReplicaInterval
from simulator.report.summary import OUTCOMES

_BATCH = 50_000
WHOLE = "pip install 'tidegate[sim]'"


def has_writer() -> bool:
    try:
        _pyarrow()
    except ConfigError:
        return False
    return True


def write_tables(folder: Path, facts: Facts, series: tuple[Series, ...], bin_s: float) -> None:
    """``requests``, ``decisions``, ``replicas`` and ``series``, each ``.parquet``. Raises ``ConfigError`` without
    pyarrow and ``OSError`` where nothing can be written."""
    arrow, parquet = _pyarrow()
    parquet.write_table(_requests(arrow, facts), folder / "requests.parquet")
    parquet.write_table(_replicas(arrow, facts), folder / "replicas.parquet")
    parquet.write_table(_series(arrow, series, bin_s), folder / "series.parquet")
    with parquet.ParquetWriter(folder / "decisions.parquet", _decision_schema(arrow)) as writer:
        for rows in _decision_batches(facts):
            writer.write_table(arrow.Table.from_pylist(rows, schema=_decision_schema(arrow)))


def parquet_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A file of these rows; a column whose values are not all of one kind is text. Raises ``ConfigError`` without
    pyarrow."""
    arrow, parquet = _pyarrow()
    table = arrow.table({name: _column(arrow, [row[index] for row in rows]) for index, name in enumerate(names)})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def _column(arrow: Any, values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        values = [None if value is None else str(value) for value in values]
    return arrow.array(values)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"Parquet files need pyarrow: {WHOLE}") from None
    return pyarrow, pyarrow.parquet


def _requests(arrow: Any, facts: Facts) -> Any:
    """Times are seconds from the run's second 0, null for what did not happen."""
    out = facts.outcomes

    def times(column: Any) -> Any:
        return arrow.array(column, mask=np.isnan(column))

    return arrow.table(
        {
            "model": _named(arrow, out.model, facts.models),
            "tenant": _named(arrow, out.tenant.astype(np.int64) + 1, (NO_TENANT, *facts.tenants)),
            "arrival_s": out.arrival_s,
            "first_token_s": times(out.first_token_s),
            "end_s": times(out.end_s),
            "prompt_tokens": out.prompt_tokens,
            "output_tokens": out.output_tokens,
            "answer_tokens": out.answer_tokens,
            "status": _named(arrow, out.status, tuple(outcome.value for outcome in OUTCOMES)),
            "in_time": facts.kept,
        }
    )


def _named(arrow: Any, codes: Any, names: tuple[str, ...]) -> Any:
    return arrow.DictionaryArray.from_arrays(codes.astype(np.int32), arrow.array(names, arrow.string()))


def _replicas(arrow: Any, facts: Facts) -> Any:
    """One row for each phase of each replica, from its first second to its last."""
    rows = _whole_phases(facts.recorded.replicas)
    intervals = [one.interval for one in rows]
    return arrow.table(
        {
            "replica": arrow.array([one.replica_id for one in rows], arrow.string()),
            "model": arrow.array([one.model_id for one in rows], arrow.string()),
            "pool": arrow.array([one.pool_id for one in intervals], arrow.string()),
            "tier": arrow.array([one.tier.value for one in rows], arrow.string()),
            "phase": arrow.array([one.phase.value for one in intervals], arrow.string()),
            "begin_s": arrow.array([one.begin_s for one in intervals], arrow.float64()),
            "end_s": arrow.array([one.end_s for one in intervals], arrow.float64()),
            "gpus": arrow.array([one.gpus for one in intervals], arrow.int32()),
            "unused_gpus": arrow.array([one.unused_gpus for one in intervals], arrow.int32()),
            "busy_s": arrow.array([one.busy_s for one in intervals], arrow.float64()),
        }
    )


def _whole_phases(replicas: Sequence[ReplicaInterval]) -> list[ReplicaInterval]:
    """Neighbours in one phase are one: a phase is recorded in parts, by day and as the broker learned of it."""
    whole: list[ReplicaInterval] = []
    for one in replicas:
        last = whole[-1] if whole else None
        if last is not None and last.replica_id == one.replica_id:
            before, after = last.interval, one.interval
            if before.phase is after.phase and before.end_s == after.begin_s:
                busy_s = before.busy_s + after.busy_s
                whole[-1] = replace(last, interval=replace(before, end_s=after.end_s, busy_s=busy_s))
                continue
        whole.append(one)
    return whole


def _series(arrow: Any, series: tuple[Series, ...], bin_s: float) -> Any:
    """One row for each bin of each series; ``labels`` as JSON text."""
    columns: dict[str, list[Any]] = {name: [] for name in ("name", "labels", "unit", "t_s", "value", "low", "high")}
    for one in series:
        count = len(one.values)
        columns["name"] += [one.name] * count
        columns["labels"] += [json.dumps(one.labels, sort_keys=True)] * count
        columns["unit"] += [one.unit] * count
        columns["t_s"] += [index * bin_s for index in range(count)]
        columns["value"] += one.values
        columns["low"] += one.low or [None] * count
        columns["high"] += one.high or [None] * count
    kinds = {name: arrow.string() for name in ("name", "labels", "unit")}
    return arrow.table({name: arrow.array(rows, kinds.get(name, arrow.float64())) for name, rows in columns.items()})


def _decision_schema(arrow: Any) -> Any:
    text, whole = arrow.string(), arrow.int32()
    return arrow.schema(
        [
            ("t_s", arrow.float64()), ("model", text), ("mode", text), ("before", whole), ("target", whole),
            ("baseline", whole), ("code", text), ("words", text), ("policy", text), ("trail", text), ("inputs", text),
            ("actions", text), ("shadows", text),
        ]
    )  # fmt: skip


def _decision_batches(facts: Facts) -> Iterator[list[dict[str, Any]]]:
    for begin in range(0, len(facts.decisions), _BATCH):
        yield [_decision(one, facts.started_at) for one in facts.decisions[begin : begin + _BATCH]]


def _decision(decision: Decision, started_at: float) -> dict[str, Any]:
    """Trail, inputs, actions and shadows as JSON text, as in ``decision.json`` of docs/schemas."""
    data = wire.encode(decision)
    return {
        "t_s": decision.now - started_at,
        "model": decision.model_id,
        **{name: data[name] for name in ("mode", "before", "target", "baseline", "code", "words", "policy")},
        **{name: json.dumps(data[name]) for name in ("trail", "inputs", "actions", "shadows")},
    }
