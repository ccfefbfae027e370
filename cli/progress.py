"""How far a simulated run is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.output import errors
from simulator.simulation import make_ready

LINE_EVERY_S = 10.0
_BAR_EVERY_S = 0.1
_LEAST_GAIN_PERCENT = 5.0

Show = Callable[[float, int], None]
"""Told the percent of the load that is done, and the requests so far."""
Stage = Callable[[str], None]
"""Told what begins after the load has ended."""


def prepare_engine() -> None:
    """Compile the engine, or load what an earlier run compiled. The time is told apart, and only where it was spent."""
    began = time.perf_counter()
    with errors.status("preparing the engine"):
        compiled = make_ready()
    if compiled:
        took_s = time.perf_counter() - began
        errors.print(f"compiled the engine in {took_s:.0f} s; later runs load it from disk", highlight=False)


class Paced:
    """Shows a run's progress (percent, requests so far) every ``every_s`` of ``clock``, however often it is told."""

    def __init__(self, show: Show, span_s: float, clock: Callable[[], float], every_s: float) -> None:
        self._show = show
        self._span_s = span_s
        self._clock = clock
        self._every_s = every_s
        self._next_at = clock() + every_s

    def __call__(self, second: float, count: int) -> None:
        now = self._clock()
        if now >= self._next_at:
            self._next_at = now + self._every_s
            self._show(100.0 * min(1.0, max(0.0, second / self._span_s)), count)


@contextmanager
def shown_progress(doing: str, span_s: float) -> Iterator[tuple[Paced, Stage]]:
    """Shows how far a load of ``span_s`` is, and names what begins after it."""
    every_s = _BAR_EVERY_S if errors.is_terminal else LINE_EVERY_S
    with _shown(doing) as (show, stage):
        yield Paced(show, max(span_s, 1e-9), time.monotonic, every_s), stage


@contextmanager
def _shown(doing: str) -> Iterator[tuple[Show, Stage]]:
    if not errors.is_terminal:
        yield progress_lines(doing, lambda words: errors.print(words, highlight=False, markup=False, soft_wrap=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(doing, total=100.0, far="")

        def show_stage(stage: str) -> None:
            nonlocal task
            bar.remove_task(task)
            task = bar.add_task(_staged(doing, stage), total=None, far="")

        yield (
            lambda percent, count: bar.update(task, completed=percent, far=f"{percent:>3.0f}% {count} requests"),
            show_stage,
        )


def progress_lines(doing: str, write: Callable[[str], None]) -> tuple[Show, Stage]:
    """A line where the load has come on by some percent: in its tail nothing does. One for each stage after it."""
    next_percent = 0.0

    def show(percent: float, count: int) -> None:
        nonlocal next_percent
        if percent >= next_percent:
            next_percent = percent + _LEAST_GAIN_PERCENT
            write(f"{doing}: {percent:.0f}%, {count} requests")

    return show, lambda stage: write(_staged(doing, stage))


def _staged(doing: str, stage: str) -> str:
    return f"{doing}: {stage}"
