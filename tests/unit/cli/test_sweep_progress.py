"""How long a sweep will go on is told once enough of it has ended to know."""

from __future__ import annotations

import pytest

from cli.sweep_run import time_left


@pytest.mark.parametrize(
    ("ended", "count", "workers", "told"),
    [
        pytest.param(1, 4, 2, "", id="the first cell holds the workers' own start"),
        pytest.param(3, 40, 1, "about 6m10s left", id="a few cells of one worker"),
        pytest.param(3, 40, 2, "", id="not every worker has had two"),
        pytest.param(4, 40, 2, "about 4m30s left", id="every worker has had two"),
        pytest.param(40, 40, 2, "", id="nothing is left"),
    ],
)
def test_the_time_left_is_held_back_until_a_few_cells_have_ended(
    ended: int, count: int, workers: int, told: str
) -> None:
    assert time_left(ended, count, workers, elapsed_s=30.0) == told
