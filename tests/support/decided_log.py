"""Logs that a real broker's core has decided, second by second, for commands that read them."""

from __future__ import annotations

from broker.control.loop import ControlLoop
from broker.model.observation import Override, PoolSnapshot, SpecChanged
from broker.model.ports import Log
from broker.model.spec import JsonValue, PolicySpec
from policies.registry import cached
from tests.support.builders import START, site_spec
from tests.support.world import model_spec

RULE: JsonValue = {"name": "busy", "signal": "requests_waiting", "above": 1, "for_s": 30.0, "change": 1}


async def decide(log: Log, *, steps: int, checkpoint_every_s: float = 10.0, holder: str = "a broker") -> None:
    """Lead ``log`` for so many seconds, in which people order one replica more every tenth. The caller closes it."""
    loop = ControlLoop(log, cached(), lambda effect: None, checkpoint_every_s=checkpoint_every_s)
    await loop.open(holder, START)
    begun = max(START, loop.state.control.last_now)
    model = model_spec(policy=PolicySpec("threshold", {"rules": [RULE]}))
    loop.offer(SpecChanged(site_spec(), (model,), begun))
    for second in range(1, steps + 1):
        now = begun + second
        if second % 10 == 3:
            target = 1 + second // 10
            loop.offer(Override("chat", "ada", "a test", now, now + 1e6, target))
        loop.offer(PoolSnapshot("local", now, now, True, (), 8))
        await loop.run(now)
