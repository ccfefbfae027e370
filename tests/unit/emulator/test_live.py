"""The live engine between its timers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from simulator.emulator.live import LiveEngine
from simulator.emulator.vllm_metrics import VllmMetrics
from simulator.engine.reference import ReferenceEngine
from simulator.profiles.document import load_profile


async def test_cancelling_a_request_whose_tokens_are_due_disturbs_no_other() -> None:
    """A loop that was late found tokens of a request that had just been forgotten, and every stream hung for ever."""
    profile = load_profile("demo").engine
    live = LiveEngine(ReferenceEngine(profile), VllmMetrics("chat", 1000, profile, 0.0))
    leaving = live.submit(5, 50, max_tokens=50, will_finish="length")
    staying = live.submit(5, 3, max_tokens=3, will_finish="length")
    threading.Event().wait(4 * profile.base_s)  # the loop is held up: iterations end that no timer has seen
    live.cancel(leaving)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await leaving.more_than(50)
    async with asyncio.timeout(5):
        while staying.finish_reason is None:
            await staying.more_than(staying.produced)
    assert staying.produced == 3
