"""SIGTERM and SIGINT in a process that serves: both ask it to end in order."""

from __future__ import annotations

import asyncio
import signal


def set_on_stop_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` at SIGTERM and SIGINT from now until the process ends. To be called in the main thread, in a loop.

    The loop's own handlers are not enough: it takes them back when it closes, and a second Ctrl-C in the moment
    before the interpreter is gone turned an orderly end into a death.
    """
    loop = asyncio.get_running_loop()

    def asked(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
