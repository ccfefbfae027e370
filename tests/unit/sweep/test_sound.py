"""Documents that no run can have left are refused with their field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.model.errors import WireError
from simulator.report.document import Figure, Interval, RunReport
from simulator.report.gpu_hours import GpuHours
from simulator.statistics import Days, Resampling
from simulator.sweep.document import DemandUsed, Resampled, SweepDocument
from simulator.sweep.figures import Worst
from simulator.sweep.ranking import Goal
from simulator.sweep.sound import require_sound_report, require_sound_sweep
from tests.unit.sweep.runs import candidate, result

KNOWN = Interval(None, None, 0.95, 1, 1, 1)
FIGURE = Figure("cost", "", "GPU-hours", "lower", (1.0, 2.0), (1.0, 1.0), 1.5, KNOWN)
SWEEP = SweepDocument(
    (1,), (DemandUsed("calm", "all", "generated", "digest", False),), {}, 0.0, Goal(0.9, 0.9),
    Resampled.of(Resampling(Days.OWN)), (result(candidate("rules")), result(candidate("rules"), seed=2)), (), (), (),
)  # fmt: skip


def report(*figures: Figure) -> RunReport:
    """Only its figures are looked at."""
    others: dict[str, Any] = dict.fromkeys(("run", "requests", "grid", "decision_counts", "oracle"))
    empty: dict[str, Any] = dict.fromkeys(("attainment", "latencies", "gpu_hours", "series", "decisions"), ())
    return RunReport(figures=figures, **others, **empty)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"numerator": (), "denominator": ()}, "figures[1].numerator: is empty"),
        ({"numerator": (1e308, 1e308)}, "figures[1].numerator[0]: 1e+308 is no figure"),
        ({"denominator": (1.0, -1.0)}, "figures[1].denominator[1]: -1 is no figure"),
        ({"denominator": (1.0,)}, "figures[1].denominator: has 1 days where there are 2"),
    ],
    ids=["no day", "beyond all sums", "a negative denominator", "a day that is missing"],
)
def test_a_report_with_nonsense_is_refused(change: dict[str, Any], words: str) -> None:
    require_sound_report(report(FIGURE))
    with pytest.raises(WireError) as caught:
        require_sound_report(report(FIGURE, replace(FIGURE, **change)))
    assert str(caught.value).startswith(words)


def test_a_report_without_figures_is_refused() -> None:
    with pytest.raises(WireError, match="figures: a report has at least one figure"):
        require_sound_report(report())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kept": ()}, "cells[1].figures.kept: is empty"),
        ({"days": (1.0, 1.0)}, "cells[1].figures.kept: has 1 days where there are 2"),
        ({"kept": (101.0,)}, "cells[1].figures.kept[0]: 101 in time of 100 that arrived"),
        ({"gpu_hours": (GpuHours(busy=1e308),)}, "cells[1].figures.gpu_hours[0]: 1e+308 is no figure"),
        ({"worst_hour": Worst(0.0, 0, 0)}, "cells[1].figures.worst_hour: 0 in time of 0 that arrived"),
    ],
    ids=["no day", "days that others lack", "more in time than arrived", "beyond all sums", "a worst hour of nothing"],
)
def test_a_sweep_with_nonsense_is_refused(change: dict[str, Any], words: str) -> None:
    require_sound_sweep(SWEEP)
    first, second = SWEEP.cells
    with pytest.raises(WireError) as caught:
        require_sound_sweep(replace(SWEEP, cells=(first, replace(second, figures=replace(second.figures, **change)))))
    assert str(caught.value).startswith(words)


def test_a_sweep_of_a_demand_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(WireError, match="there is no demand 'busy'"):
        require_sound_sweep(replace(SWEEP, cells=(result(candidate("rules"), demand="busy"),)))
