"""Saved observations through the same core once more, up to what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from broker.control.decide import Policies
from broker.control.draft import PolicyFault
from broker.control.invariants import LaunchHistory, check_step
from broker.control.replay import Replayed
from broker.control.step import StepResult, step
from broker.model.errors import ConfigError
from broker.model.plan import Plan
from broker.model.ports import StepRecord
from broker.model.state import BrokerState
from simulator.checks.saved import SavedObservations, words_of
from simulator.checks.world import check_world


class Verdict(StrEnum):
    """SAME: what was wrong is wrong again. ANOTHER: something else is. GONE: nothing is."""

    SAME = "same"
    ANOTHER = "another"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Resumed:
    """``steps`` were replayed, the last of them step ``number``. ``problem`` is what is wrong now, empty if nothing.
    ``differs_from``: the first step that decides otherwise than it was recorded, None if none does."""

    verdict: Verdict
    problem: str
    steps: int
    number: int
    differs_from: int | None


Tell = Callable[[int, Plan], None]
"""Told of each step's number and plan, before it is judged."""


def resume(saved: SavedObservations, policies: Policies, tell: Tell) -> Resumed:
    """Raises ``ConfigError`` if ``policies`` has not what the steps were decided by.

    What was there at the last step is held against the records only if all steps decide as they did: in another course
    of events it would have been something else.
    """
    replay = _Replay(saved, policies, tell)
    problem = ""
    try:
        for record in saved.steps:
            replay.decide(record)
        if saved.world is not None and replay.differs_from is None:
            check_world(saved.world, replay.state)
        if saved.pending:
            replay.decide_pending()
        for fault in replay.faults:
            raise fault.error
    except ConfigError:
        raise
    except Exception as error:
        problem = words_of(error)
    verdict = Verdict.ANOTHER
    if problem in ("", saved.problem):
        verdict = Verdict.SAME if problem else Verdict.GONE
    return Resumed(verdict, problem, replay.steps, replay.number, replay.differs_from)


class _Replay:
    """``faults`` are those of the last step alone: a run goes on after a policy that raised."""

    def __init__(self, saved: SavedObservations, policies: Policies, tell: Tell) -> None:
        self.state: BrokerState = saved.start.state
        self.number = saved.start.number
        self.steps = 0
        self.differs_from: int | None = None
        self.faults: tuple[PolicyFault, ...] = ()
        self._saved = saved
        self._policies = policies
        self._tell = tell
        self._launched = LaunchHistory()

    def decide(self, record: StepRecord) -> None:
        self.number, before = record.number, self.state
        result = step(before, record.observations, self._policies, record.now)
        if self.differs_from is None and not Replayed(before, record, result).same:
            self.differs_from = record.number
        self._take(result)
        check_step(before, record.observations, result)
        self._launched.check(before, result.plan)

    def decide_pending(self) -> None:
        self.number += 1
        self._take(step(self.state, self._saved.pending, self._policies, self._saved.now))

    def _take(self, result: StepResult) -> None:
        self.steps += 1
        self.state, self.faults = result.state, result.faults
        self._tell(self.number, result.plan)
