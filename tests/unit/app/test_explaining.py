"""Explanations are found in the log, in a thread, whatever else goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.app.explaining import Explainer, explain_last
from broker.control.core import BrokerCore
from broker.log.memory import MemoryLog
from broker.log.sqlite import SqliteLog
from broker.model.observation import Override
from broker.model.ports import Log
from tests.support.api_world import BASE, declared
from tests.support.world import fake_policies


async def told(log: Log, *, steps: int, checkpoint_every_s: float = 600.0) -> None:
    """A log of ``steps`` seconds of two models, with one override of chat in the third."""
    core = BrokerCore(log, fake_policies, lambda effect: None)
    core.loop._checkpoint_every_s = checkpoint_every_s
    await core.open("test", BASE)
    core.offer(declared("chat", "embed"))
    for second in range(steps):
        if second == 3:
            core.offer(Override("chat", "ada", "a launch", BASE + second, BASE + 1e6, 3))
        await core.run(BASE + second)


async def test_the_last_decision_on_the_model_is_found_between_checkpoints() -> None:
    log = MemoryLog()
    await told(log, steps=40, checkpoint_every_s=5.0)
    for model_id in ("chat", "embed"):
        explanation = await explain_last(log, fake_policies, model_id)
        assert explanation is not None
        assert explanation.decision == (await log.decisions(model_id, limit=1))[0]
        assert explanation.words
    assert await explain_last(log, fake_policies, "nope") is None


async def test_many_questions_are_answered_one_by_one_beside_the_loop(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.sqlite")
    await told(log, steps=10)
    explain = Explainer(log, fake_policies)
    answers = await asyncio.gather(*(explain(model_id) for model_id in ("chat", "embed", "nope") * 3))
    assert [None if answer is None else answer.decision.model_id for answer in answers] == ["chat", "embed", None] * 3
    await log.close()
