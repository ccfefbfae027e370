"""The recorded vLLM: what the simulated engine makes of load that it was not fitted to (needs the recording)."""

from __future__ import annotations

import numpy as np
import pytest

from accuracy.acc_recording import FULL_PAGE, METRICS, REQUESTS
from accuracy.recorded import compare_recording
from tests.support.shared_data import shared_path


@pytest.mark.slow
@pytest.mark.timeout(600)  # fits begin at four places
def test_the_overload_that_was_held_out_is_predicted_within_what_the_servers_pace_allows() -> None:
    paths = [shared_path(name) for name in (REQUESTS, METRICS, FULL_PAGE)]
    found = compare_recording(paths[0], paths[1], paths[2], 12, lambda words: None)
    assert (found.fitted.engine.block_size, found.fitted.engine.num_blocks, found.fitted.engine.max_num_seqs) == (
        128, 23, 4,
    )  # fmt: skip
    overload = found.within(found.log.phases[3])
    assert np.median(found.simulated.tpot[overload]) == pytest.approx(
        np.median(found.log.times.tpot[overload]), rel=0.1
    )
    measured = np.median(found.log.times.ttft[overload])
    drawn = [np.median(times.ttft[overload]) for times, _ in found.draws]
    assert np.percentile(drawn, 5) < measured < np.percentile(drawn, 95)
    before = np.median(found.log.times.ttft[found.within(found.log.phases[2])])
    assert abs(np.median(found.simulated.ttft[overload]) - measured) < abs(before - measured)
