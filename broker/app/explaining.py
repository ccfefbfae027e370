"""Finds the situation of a recorded decision by replaying the log, and has it explained."""

from __future__ import annotations

import asyncio

from broker.control.decide import Policies
from broker.control.explain import Explanation, Situation, explain
from broker.control.replay import replay
from broker.model.plan import Decision
from broker.model.ports import Log


class Explainer:
    """Explains in a thread of its own, one question at a time: a replay takes seconds that steps must not wait for."""

    def __init__(self, log: Log, policies: Policies) -> None:
        self._log = log
        self._policies = policies
        self._one = asyncio.Semaphore(1)

    async def __call__(self, model_id: str) -> Explanation | None:
        async with self._one:
            return await asyncio.to_thread(asyncio.run, self._explained(model_id))

    async def _explained(self, model_id: str) -> Explanation | None:
        reader = self._log.reader()
        try:
            return await explain_last(reader, self._policies, model_id)
        finally:
            await reader.close()


async def explain_last(log: Log, policies: Policies, model_id: str) -> Explanation | None:
    """The explanation of the newest decision on ``model_id`` that is still kept; None if there is none."""
    found = await log.decisions(model_id, limit=1)
    if not found:
        return None
    situation = await _situation_of(log, policies, found[0])
    return None if situation is None else explain(situation, found[0], policies)


async def _situation_of(log: Log, policies: Policies, decision: Decision) -> Situation | None:
    """Replayed from the newest checkpoint before the decision; None if its step is kept no more."""
    start = await log.checkpoint_before(decision.now)
    found: Situation | None = None
    async for replayed in replay(log, policies, start=start):
        record = replayed.record
        if record.now > decision.now:
            break
        if decision in record.decisions:
            found = Situation(replayed.before, record.observations, record.now)
    return found
