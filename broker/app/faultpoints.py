"""Named points at which a fault test lets the broker kill or pause itself, which nothing outside could time.

``TIDEGATE_FAULT_POINT=after_publish:3`` kills the broker the third time that it has written a publication,
``before_launch:1:pause`` stops it (SIGSTOP) with a start in its hands, until somebody lets it go on (SIGCONT). The
composition root asks once; without the variable nothing of this module is in the broker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any, cast

from broker.app.agents import AgentTable
from broker.model.agents import AgentPhase, AgentReport
from broker.model.errors import ConfigError
from broker.model.observation import Receipt
from broker.model.plan import Effect, Launch, Stop
from broker.model.ports import Clock, Log, Runner, StepRecord
from broker.model.replica import ReplicaPhase

VARIABLE = "TIDEGATE_FAULT_POINT"

WRITES = ("launch_intent", "stop_intent", "receipt", "publish", "withdraw", "tombstone")
"""What a committed step may hold: the point lies right before or right after the commit."""

EFFECTS = ("launch", "stop")
"""The point lies before the actuator is called, or after it answered and before its receipt is offered."""

POINTS = tuple(f"{side}_{name}" for name in (*WRITES, *EFFECTS) for side in ("before", "after"))

JOB_POINTS = tuple(f"{side}_{name}" for name in ("submit", "registration") for side in ("before", "after"))
"""Of pools whose replicas are jobs: around the submission, within the effect, and around an agent's first report."""

_BLOWS = {"": signal.SIGKILL, "pause": signal.SIGSTOP}
_REGISTRY = {
    ReplicaPhase.READY: "publish",
    ReplicaPhase.DRAINING: "withdraw",
    ReplicaPhase.GONE: "tombstone",
}


class FaultPoints:
    """Counts the passes of one point, and sends this process ``blow`` at the one that was asked for."""

    def __init__(self, point: str, passes: int, blow: signal.Signals = signal.SIGKILL) -> None:
        self._point = point
        self._left = passes
        self._blow = blow

    def reached(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._blow)


def fault_points(environment: Mapping[str, str]) -> FaultPoints | None:
    """What the environment asks for: ``POINT``, ``POINT:PASS`` or ``POINT:PASS:pause``. Raises ``ConfigError``."""
    text = environment.get(VARIABLE)
    if not text:
        return None
    point, _, rest = text.partition(":")
    passes, _, blow = rest.partition(":")
    counted = (passes or "1").isdecimal() and passes != "0"
    if point not in (*POINTS, *JOB_POINTS) or not counted or blow not in _BLOWS:
        known = ", ".join((*POINTS, *JOB_POINTS))
        raise ConfigError(f"{VARIABLE}={text} is no POINT, POINT:PASS or POINT:PASS:pause; points are {known}")
    return FaultPoints(point, int(passes or "1"), _BLOWS[blow])


def with_points(log: Log, points: FaultPoints) -> Log:
    """``log`` with a point on either side of each commit."""
    return cast(Log, _FaultyLog(log, points))


class _FaultyLog:
    """Stands before a log of any kind: what it does not know of, the log does."""

    def __init__(self, log: Log, points: FaultPoints) -> None:
        self._log = log
        self._points = points

    async def commit(self, record: StepRecord) -> None:
        kinds = sorted(set(_writes(record)))
        for kind in kinds:
            self._points.reached(f"before_{kind}")
        await self._log.commit(record)
        for kind in kinds:
            self._points.reached(f"after_{kind}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


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
