"""Work on a Kafka that may be away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from broker.model.errors import LogError

RETRIED_AFTER_S = 1.0
TOLD_AGAIN_AFTER_S = 60.0
"""Longer than an attempt takes while Kafka is away: what fails then anew has worked in between."""

logger = structlog.get_logger("broker")


async def retried(event: str, work: Callable[[], Awaitable[None]]) -> None:
    """``work`` for ever, begun anew a moment after each ``LogError``. ``event`` tells of one once for as long as it
    comes again and again."""
    clock = asyncio.get_running_loop().time
    problem, failed_at = "", clock()
    while True:
        try:
            await work()
        except LogError as error:
            if str(error) != problem or clock() - failed_at > TOLD_AGAIN_AFTER_S:
                logger.warning(event, problem=str(error), action="it is tried again for as long as it takes")
            problem, failed_at = str(error), clock()
        await asyncio.sleep(RETRIED_AFTER_S)
