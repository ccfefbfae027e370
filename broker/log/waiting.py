"""Writes that wait for the transaction that they share: what both logs' writers have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BATCH = 1000
"""Writes after which a transaction takes no more, so that its first need not wait for an endless queue."""


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """``future`` is who waits for ``result`` or ``error``."""

    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


def settle(batch: Iterable[Waiting]) -> None:
    """Tell each what became of its write."""
    for write in batch:
        if write.future.done():  # whoever waited was cancelled
            continue
        if write.error is not None:
            write.future.set_exception(write.error)
        else:
            write.future.set_result(write.result)


def fresh_copy(error: Exception) -> Exception:
    """A new exception for each that waits: one that is raised twice mixes up its tracebacks."""
    return type(error)(*error.args)
