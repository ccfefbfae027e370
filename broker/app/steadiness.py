"""How the interpreter is set in a process that holds one large state, for days with somebody waiting for each step, or
for a simulation of weeks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (50_000, 20, 50)
_SWITCH_INTERVAL_S = 0.0005


@contextmanager
def steady_steps() -> Iterator[None]:
    """Enter it after the state was restored; the settings hold until the block ends.

    The garbage collector leaves alone what lives now and looks rarely at what is new: the records of 10,000 replicas
    are some hundred thousand objects without a cycle, which reference counts alone give back, and a full collection
    that looks at each of them took 60 ms in the middle of a step, and a tenth of a simulated fleet's time. Cycles
    (tasks, exceptions) are still found.

    Threads take turns each half millisecond instead of each five: the log's thread needs the interpreter after every
    statement of a commit, and while the event loop is busy it would wait for its turn each time.
    """
    thresholds, interval_s = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
