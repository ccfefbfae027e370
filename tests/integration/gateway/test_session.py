"""What the broker hears from a gateway, and that a drain cuts nothing and waits for nothing needless."""

from __future__ import annotations

import asyncio

import pytest

from broker.model.replica import ReplicaPhase
from tests.integration.gateway.site import Site, until

pytestmark = pytest.mark.integration

DRAINING = ReplicaPhase.DRAINING


async def test_reports_name_the_run_and_count_up(site: Site) -> None:
    await site.start()
    await until(lambda: len(site.broker.reports) >= 4)
    reports = site.broker.reports
    assert {report["gateway_id"] for report in reports} == {"gw"}
    assert len({report["boot_id"] for report in reports}) == 1
    assert [report["sequence"] for report in reports] == list(range(1, len(reports) + 1))


async def test_a_withdrawal_is_acknowledged_only_when_it_is_applied(site: Site) -> None:
    await site.start(engines=2, report_every_s=30.0)
    revision = site.broker.move("chat-0-g1", DRAINING)
    await until(lambda: site.broker.reports[-1]["applied_revision"] == revision)
    assert all(report["applied_revision"] <= revision for report in site.broker.reports)
    for _ in range(3):
        await site.ask()
    assert [len(engine.received) for engine in site.engines] == [0, 3]


async def test_a_draining_endpoint_finishes_what_it_has_and_its_end_is_told_at_once(site: Site) -> None:
    await site.start(engines=1, report_every_s=30.0)
    site.engines[0].may_finish.clear()
    asked = [asyncio.create_task(site.ask()) for _ in range(20)]
    await until(lambda: len(site.engines[0].received) == 20)
    await site.add_engine(1)
    revision = site.broker.move("chat-0-g1", DRAINING)
    await until(lambda: site.broker.reports[-1]["applied_revision"] == revision)
    assert site.broker.reports[-1]["in_flight"] == {"chat-0-g1": 20}
    await site.ask()
    assert len(site.engines[0].received) == 20, "nothing new goes there"
    site.engines[0].may_finish.set()
    answers = await asyncio.gather(*asked)
    assert all(answer.events[-1] == "[DONE]" and not answer.broken for answer in answers)
    await until(lambda: site.broker.reports[-1]["in_flight"] == {})


async def test_summaries_of_an_outage_come_later_with_the_same_sequence_once_each(site: Site) -> None:
    await site.start()
    await until(lambda: site.broker.summaries())
    site.broker.taking_reports = False
    await site.ask()
    await until(lambda: site.gateway.session.summaries_waiting >= 3)
    site.broker.taking_reports = True
    await until(lambda: sum(summary.arrived for summary in site.broker.summaries()) == 1)
    await until(lambda: site.gateway.session.summaries_waiting == 0)
    sequences = [summary.sequence for summary in site.broker.summaries()]
    assert sequences == sorted(set(sequences))
    sent = [data["sequence"] for report in site.broker.reports for data in report["summaries"]]
    assert len(sent) == len(set(sent)), "what was acknowledged is not sent again"


async def test_a_model_without_requests_is_reported_as_zero(site: Site) -> None:
    await site.start(models=("later",))
    await until(lambda: site.broker.summaries("later") and site.broker.summaries("chat"))
    summary = site.broker.summaries("later")[-1]
    assert (summary.arrived, summary.waiting, summary.oldest_waiting_since) == (0, 0, None)
    assert summary.interval_s == pytest.approx(0.1, abs=0.09)


async def test_stopping_ends_the_session(site: Site) -> None:
    await site.start()
    await site.ask()
    await site.stop_gateway()
    assert site.broker.reports[-1]["closed"]
    assert sum(summary.finished for summary in site.broker.summaries()) == 1


async def test_stopping_lets_open_streams_finish_and_takes_no_new_ones(site: Site) -> None:
    await site.start()
    site.engines[0].may_finish.clear()
    asked = asyncio.create_task(site.ask())
    await until(lambda: site.engines[0].received)
    stopping = asyncio.create_task(site.stop_gateway())
    await asyncio.sleep(0.1)
    with pytest.raises(OSError, match=r"Connect|refused"):
        await asyncio.open_connection("127.0.0.1", site.gateway.port)
    site.engines[0].may_finish.set()
    answer = await asked
    await stopping
    assert (answer.events[-1], answer.broken) == ("[DONE]", False)


async def test_streams_that_outlast_the_limit_are_visibly_cut(site: Site) -> None:
    await site.start(shutdown_s=0.1)
    site.engines[0].may_finish.clear()
    asked = asyncio.create_task(site.ask())
    await until(lambda: site.engines[0].received)
    await asyncio.sleep(0.05)
    await site.stop_gateway()
    answer = await asked
    assert answer.broken
    assert "[DONE]" not in answer.events
    assert sum(summary.failed for summary in site.broker.summaries()) == 1
