"""Small runs with their reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.model.spec import PolicySpec
from policies.registry import cached
from simulator.oracle.policy import with_clairvoyant
from simulator.report.compose import Source, compose
from simulator.report.document import FileUsed, Oracle, RunReport, TraceUsed
from simulator.report.facts import Facts
from simulator.report.recorder import Recorder
from simulator.run import Report
from tests.support.simulated import ELASTIC, SmallRun, small_request
from traces.schema import TraceRequest

BURST = [small_request(0.05 * n, 200, 60) for n in range(100)]
"""More than one replica can do: the target rises, and falls in the tail."""

SOURCE = Source(
    "0.1.0", 7, dated=True, policies=FileUsed("policies.yaml", "0" * 64),
    trace=TraceUsed(FileUsed("trace.csv", "1" * 64), 103, 2, 1, "", 1.0, "superpose", 1_700_000_000.0),
)  # fmt: skip


def reported(requests: list[TraceRequest] = BURST, small: SmallRun | None = None) -> Report:
    small = small or SmallRun()
    recorder = Recorder(small.simulation)
    summary = small.run(requests)
    return Report.of(small.simulation, summary, recorder.recorded())


def document(facts: Facts, oracle: Oracle | None = None) -> RunReport:
    return compose(facts, SOURCE, oracle=oracle)


def again(policies: Mapping[str, PolicySpec]) -> Facts:
    """``BURST`` once more under other policies."""
    small = SmallRun(model=replace(ELASTIC, policy=policies["chat"]), policies=with_clairvoyant(cached()))
    return reported(small=small).facts
