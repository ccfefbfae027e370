"""Tells the waiting parts of a gateway that something changed, without saying what: each looks for itself."""

from __future__ import annotations

import asyncio


class Changed:
    """``notify`` wakes everybody who waits at that moment, in the order in which they came."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()
