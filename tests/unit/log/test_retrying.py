"""Work on a Kafka that is away now and then."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from broker.log.kafka.retrying import RETRIED_AFTER_S, TOLD_AGAIN_AFTER_S, retried
from broker.model.errors import LogUnreachable

pytestmark = pytest.mark.looptime


class Over(Exception):
    """The test ends here."""


async def told_of(*attempts: tuple[float, str]) -> list[str]:
    """The problems told of work that fails so often, each time after so many seconds in these words."""
    left = list(attempts)

    async def work() -> None:
        if not left:
            raise Over
        lasts_s, problem = left.pop(0)
        await asyncio.sleep(lasts_s)
        raise LogUnreachable(problem)

    with capture_logs() as lines, pytest.raises(Over):
        await retried("not_read", work)
    return [line["problem"] for line in lines if line["event"] == "not_read"]


async def test_an_outage_is_told_once_however_often_it_is_tried() -> None:
    began = asyncio.get_running_loop().time()
    assert await told_of(*[(20.0, "away")] * 10) == ["away"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(10 * (20.0 + RETRIED_AFTER_S))


async def test_another_problem_is_told_and_the_same_one_again_after_it_worked_for_a_while() -> None:
    assert await told_of((0.0, "away"), (0.0, "forbidden"), (0.0, "forbidden")) == ["away", "forbidden"]
    assert await told_of((0.0, "away"), (TOLD_AGAIN_AFTER_S, "away"), (0.0, "away")) == ["away", "away"]
