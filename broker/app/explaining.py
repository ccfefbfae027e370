"""Finds the situation of a recorded decision by replaying the log, and has it explained."""

from __future__ import annotations

from broker.control.decide import Policies
from broker.control.explain import Explanation, Situation, explain
from broker.control.replay import replay
from broker.model.plan import Decision
from broker.model.ports import Checkpoint, Log


async def explain_last(log: Log, policies: Policies, model_id: str) -> Explanation | None:
    """The explanation of the newest decision on ``model_id`` that is still kept; None if there is none.

    Starts from the newest checkpoint, and from older ones only if no later step decided on the model.
    """
    starts: list[Checkpoint | None] = [None, *[checkpoint async for checkpoint in log.checkpoints()]]
    for start in reversed(starts):
        found = await _last_decision(log, policies, model_id, start)
        if found is not None:
            situation, decision = found
            return explain(situation, decision, policies)
    return None


async def _last_decision(
    log: Log, policies: Policies, model_id: str, start: Checkpoint | None
) -> tuple[Situation, Decision] | None:
    found: tuple[Situation, Decision] | None = None
    async for replayed in replay(log, policies, start=start):
        for decision in replayed.result.plan.decisions:
            if decision.model_id == model_id:
                record = replayed.record
                found = Situation(replayed.before, record.observations, record.now), decision
    return found
