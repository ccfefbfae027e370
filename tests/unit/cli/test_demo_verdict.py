"""What the demo holds against a run, and what it wants to be there before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.model.plan import Decision
from cli.demo.verdict import DrainSeen, problems_of, successors_of
from simulator.report.summary import Outcomes, ReplicaPoint, RequestOutcome, RunSummary, summarise
from tests.support.command_line import tidegate
from tests.unit.report.test_summary import POINTS, REQUESTS, STARTED_AT, decision

IN, EXPIRED = (
    DrainSeen("chat-1-g2", "scale_in", 37.0, 24, 0),
    DrainSeen("chat-0-g1", "expiry", 51.0, 60, 0),
)


def run_of(
    outcomes: Sequence[RequestOutcome], replicas: Sequence[ReplicaPoint], decisions: Sequence[Decision]
) -> RunSummary:
    return summarise(
        source="demo", started_at=STARTED_AT, duration_s=10.0, outcomes=Outcomes.of(outcomes), replicas=replicas,
        decisions=decisions,
    )  # fmt: skip


GOOD = run_of(REQUESTS[:1], POINTS, [decision(2.0, 1, 2), decision(8.0, 2, 1)])


def problems(
    run: RunSummary, *drains: DrainSeen, orphans: int = 0, open_at_drain: bool = True, renews: bool = True
) -> list[str]:
    return list(problems_of(run, drains, orphans, open_at_drain=open_at_drain, renews=renews))


def test_a_run_that_scaled_out_was_renewed_and_scaled_in_without_a_loss_has_no_problem() -> None:
    assert problems(GOOD, IN, EXPIRED) == []
    assert problems(GOOD, IN, renews=False) == []


@pytest.mark.parametrize(
    ("drains", "told"),
    [
        ([IN], "no replica was succeeded before its wall time"),
        ([EXPIRED], "it did not scale in"),
        ([IN, replace(EXPIRED, in_flight_at_stop=1)], "with requests in flight (invariant 1)"),
        ([replace(IN, open_streams=3), EXPIRED], "under 20 open streams (the most were 3)"),
    ],
)
def test_a_drain_that_is_missing_or_cut_or_idle_is_told(drains: list[DrainSeen], told: str) -> None:
    (problem,) = problems(GOOD, *drains)
    assert told in problem


def record(number: int, requested_at: float, expiring_since: float | None = None) -> dict[str, Any]:
    return {"replica_id": f"chat-g{number}", "requested_at": requested_at, "expiring_since": expiring_since}


SUCCESSIONS: dict[str, tuple[list[dict[str, Any]], dict[str, str]]] = {
    "nobody by what was there before": ([record(1, 0.0, 60.0), record(2, 50.0)], {}),
    "by the first since then": ([record(3, 65.0), record(2, 60.0), record(1, 0.0, 60.0)], {"chat-g1": "chat-g2"}),
    "two by one each": (
        [record(1, 0.0, 60.0), record(2, 10.0, 60.0), record(3, 60.0), record(4, 61.0)],
        {"chat-g1": "chat-g3", "chat-g2": "chat-g4"},
    ),
}


@pytest.mark.parametrize(("records", "found"), SUCCESSIONS.values(), ids=SUCCESSIONS)
def test_who_succeeded_whom_is_told_by_when_each_was_asked_for(
    records: list[dict[str, Any]], found: dict[str, str]
) -> None:
    assert successors_of(records) == found


def test_a_drain_is_told_in_words_with_its_successor() -> None:
    words = replace(EXPIRED, successor="chat-2-g3").words
    assert words.startswith(
        "Drain of chat-0-g1 (its wall time was near, succeeded by chat-2-g3) began at 51.0 s under 60"
    )
    assert "Drain of chat-1-g2 (it was needed no more) began" in IN.words
    assert "(Slurm gave it notice, succeeded by" in replace(EXPIRED, reason="stopped_by_pool", successor="a").words


def test_lost_requests_a_target_that_never_rose_and_orphans_are_told() -> None:
    told = problems(run_of(REQUESTS, POINTS[:1], [decision(2.0, 2, 2)]), IN, EXPIRED, orphans=2)
    assert told == [
        "1 request failed",
        "1 request cut",
        "1 request rejected",
        "1 request unfinished",
        "it did not scale out",
        "2 replicas left that no record names (invariant 4)",
    ]


def test_without_slurms_commands_the_demo_says_what_to_install(tmp_path: Path) -> None:
    result = tidegate("demo", "--slurm", "gpu", "--headless", environment={"PATH": str(tmp_path)})
    assert result.exit_code == 2
    assert "sbatch, squeue, scancel, scontrol not found here; install slurm-client" in " ".join(result.stderr.split())
