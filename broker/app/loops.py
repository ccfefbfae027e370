"""Running the parts of a process that run for ever: until it is told to stop, or one of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from broker.app.runtime import cancel
from broker.control.answers import in_words
from broker.model.errors import TidegateError

logger = structlog.get_logger("broker")


class PartEnded(TidegateError):
    """A part of the process ended in a way that nobody foresaw; another process takes over what it did."""


async def run_until(stop: asyncio.Event, *loops: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """All have ended when this returns, or raises ``PartEnded``."""
    asked = asyncio.create_task(stop.wait())
    tasks = [asyncio.create_task(loop()) for loop in loops]
    try:
        await asyncio.wait((asked, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                logger.error("loop_died", exc_info=error)
                raise PartEnded(f"a part of this process ended by a mistake in it ({in_words(error)})") from None
    finally:
        await cancel([asked, *tasks])
