"""Named points at which a fault test lets the broker kill itself, which nothing outside could time.

``TIDEGATE_FAULT_POINT=after_publish:3`` kills the broker the third time that it has written a publication. The
composition root asks once; without the variable nothing of this module is in the broker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from broker.app.agents import AgentTable
from broker.log.sqlite import SqliteLog
from broker.model.agents import AgentPhase, AgentReport
from broker.model.errors import ConfigError
from broker.model.observation import Receipt
from broker.model.plan import Effect, Launch, Stop
from broker.model.ports import Clock, Runner, StepRecord
from broker.model.replica import ReplicaPhase

VARIABLE = "TIDEGATE_FAULT_POINT"

WRITES = ("launch_intent", "stop_intent", "receipt", "publish", "withdraw", "tombstone")
"""What a committed step may hold: the point lies right before or right after the commit."""

EFFECTS = ("launch", "stop")
"""The point lies before the actuator is called, or after it answered and before its receipt is offered."""

POINTS = tuple(f"{side}_{name}" for name in (*WRITES, *EFFECTS) for side in ("before", "after"))

JOB_POINTS = tuple(f"{side}_{name}" for name in ("submit", "registration") for side in ("before", "after"))
"""Of pools whose replicas are jobs: around the submission, within the effect, and around an agent's first report."""

_REGISTRY = {
    ReplicaPhase.READY: "publish",
    ReplicaPhase.DRAINING: "withdraw",
    ReplicaPhase.GONE: "tombstone",
}


class FaultPoints:
    """Counts the passes of one point, and dies at the one that was asked for."""

    def __init__(self, point: str, passes: int) -> None:
        self._point = point
        self._left = passes

    def reached(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def fault_points(environment: Mapping[str, str]) -> FaultPoints | None:
    """What the environment asks for: ``POINT`` or ``POINT:PASS``. Raises ``ConfigError``."""
    text = environment.get(VARIABLE)
    if not text:
        return None
    point, _, passes = text.partition(":")
    if point not in (*POINTS, *JOB_POINTS) or not (passes or "1").isdecimal() or passes == "0":
        known = ", ".join((*POINTS, *JOB_POINTS))
        raise ConfigError(f"{VARIABLE}={text} is no POINT or POINT:PASS; points are {known}")
    return FaultPoints(point, int(passes or "1"))


class FaultyLog(SqliteLog):
    """The embedded log with a point on either side of each commit."""

    def __init__(self, path: Path, points: FaultPoints) -> None:
        super().__init__(path)
        self._points = points

    async def commit(self, record: StepRecord) -> None:
        kinds = sorted(set(_writes(record)))
        for kind in kinds:
            self._points.reached(f"before_{kind}")
        await super().commit(record)
        for kind in kinds:
            self._points.reached(f"after_{kind}")


class FaultyRunner:
    """A runner with a point on either side of each effect."""

    def __init__(self, runner: Runner, points: FaultPoints) -> None:
        self._runner = runner
        self._points = points

    async def execute(self, effect: Effect) -> Receipt:
        kind = "launch" if isinstance(effect, Launch) else "stop"
        self._points.reached(f"before_{kind}")
        receipt = await self._runner.execute(effect)
        self._points.reached(f"after_{kind}")
        return receipt


class FaultyAgentTable(AgentTable):
    """The agents with a point on either side of the first report of one that loads."""

    def __init__(self, clock: Clock, points: FaultPoints) -> None:
        super().__init__(clock)
        self._points = points

    def hear(self, report: AgentReport) -> None:
        first = self.latest(report.action_id) is None and report.phase in (AgentPhase.STARTING, AgentPhase.LOADING)
        if first:
            self._points.reached("before_registration")
        super().hear(report)
        if first:
            self._points.reached("after_registration")


def _writes(record: StepRecord) -> Iterator[str]:
    for effect in record.effects:
        yield "stop_intent" if isinstance(effect, Stop) else "launch_intent"
    if any(isinstance(observation, Receipt) for observation in record.observations):
        yield "receipt"
    for endpoint in record.registry:
        yield _REGISTRY[endpoint.phase]
