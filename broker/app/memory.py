"""Python's garbage collector in a process that holds one large state for days."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (50_000, 20, 50)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Keep what lives now out of the collector's sight until the block ends, and let it look rarely at what is new.

    The records of 10,000 replicas are some hundred thousand objects without a cycle, which reference counts alone
    give back; a full collection looks at each of them and took 60 ms and more, in the middle of a step, while
    somebody waited for it. Enter this after the state was restored. Cycles (tasks, exceptions) are still found.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
