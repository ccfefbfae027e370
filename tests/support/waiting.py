"""Waiting for what another process does: its time is real, so that it is asked again and again, within a limit."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

ASKED_EVERY_S = 0.02


def until(
    holds: Callable[[], T | None], what: str, limit_s: float = 40.0, *, by: subprocess.Popen[Any] | None = None
) -> T:
    """What ``holds`` returns once it is true. Raises ``AssertionError`` at the limit, and at once if ``by``, the
    process that should make it so, has ended."""
    deadline = time.monotonic() + limit_s
    while not (found := holds()):
        assert by is None or by.poll() is None, f"{what}: the process has ended with status {by.returncode}"
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s"
        time.sleep(ASKED_EVERY_S)
    return found


async def eventually(holds: Callable[[], T | None], what: str = "it holds", limit_s: float = 40.0) -> T:
    """As ``until``, for what happens within this process's event loop meanwhile."""
    deadline = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s"
        await asyncio.sleep(ASKED_EVERY_S)
    return found


async def until_answered(
    ask: Callable[[], Awaitable[T]], holds: Callable[[T], object], what: str, limit_s: float = 20.0
) -> T:
    """As ``until``, for what must be asked within an event loop: the first answer for which ``holds`` is true."""
    deadline = time.monotonic() + limit_s
    while not holds(found := await ask()):
        assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s, but {found}"
        await asyncio.sleep(ASKED_EVERY_S)
    return found
