"""What the broker hears from a gateway, and that a drain cuts nothing and waits for nothing needless."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from broker.model.replica import ReplicaPhase
from tests.integration.gateway.site import Site
from tests.integration.gateway.topics import heard_by
from tests.support.needs import needs_kafka
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

DRAINING = ReplicaPhase.DRAINING

by_http = pytest.mark.parametrize("site", ["http"], indirect=True)
by_topics = pytest.mark.parametrize("site", [pytest.param("topics", marks=needs_kafka)], indirect=True)


@pytest.fixture(params=["http", pytest.param("topics", marks=needs_kafka)])
async def site(request: pytest.FixtureRequest, kafka_cluster: str) -> AsyncIterator[Site]:
    """Whose broker hears the gateway by either way."""
    site = Site()
    async with AsyncExitStack() as stack:
        if request.param == "topics":
            kafka: RealKafka = request.getfixturevalue("kafka")
            site.log = await stack.enter_async_context(heard_by(site.broker, kafka.bootstrap_servers, kafka_cluster))
        stack.push_async_callback(site.close)
        yield site


def acknowledged(site: Site) -> int:
    """The revision that the gateway has applied, as far as the broker was told."""
    return site.broker.reports[-1]["applied_revision"] if site.broker.reports else -1


async def test_reports_name_the_run_and_count_up(site: Site) -> None:
    await site.start()
    await eventually(lambda: len(site.broker.reports) >= 4)
    reports = site.broker.reports
    assert {report["gateway_id"] for report in reports} == {"gw"}
    assert len({report["boot_id"] for report in reports}) == 1
    sequences = [report["sequence"] for report in reports]
    assert sequences == sorted(set(sequences))


async def test_a_withdrawal_is_acknowledged_only_when_it_is_applied(site: Site) -> None:
    await site.start(engines=2, report_every_s=30.0)
    revision = site.broker.move("chat-0-g1", DRAINING)
    await eventually(lambda: acknowledged(site) == revision)
    assert all(report["applied_revision"] <= revision for report in site.broker.reports)
    for _ in range(3):
        await site.ask()
    assert [len(engine.received) for engine in site.engines] == [0, 3]


async def test_a_draining_endpoint_finishes_what_it_has_and_its_end_is_told_at_once(site: Site) -> None:
    await site.start(engines=1, report_every_s=30.0)
    site.engines[0].may_finish.clear()
    asked = [asyncio.create_task(site.ask()) for _ in range(20)]
    await eventually(lambda: len(site.engines[0].received) == 20)
    await site.add_engine(1)
    revision = site.broker.move("chat-0-g1", DRAINING)
    await eventually(lambda: acknowledged(site) == revision)
    assert site.broker.reports[-1]["in_flight"] == {"chat-0-g1": 20}
    await site.ask()
    assert len(site.engines[0].received) == 20, "nothing new goes there"
    site.engines[0].may_finish.set()
    answers = await asyncio.gather(*asked)
    assert all(answer.events[-1] == "[DONE]" and not answer.broken for answer in answers)
    await eventually(lambda: site.broker.reports[-1]["in_flight"] == {})


@by_http
async def test_summaries_of_an_outage_come_later_with_the_same_sequence_once_each(site: Site) -> None:
    await site.start()
    await eventually(lambda: site.broker.summaries())
    site.broker.taking_reports = False
    await site.ask()
    await eventually(lambda: site.gateway.session.uplink.summaries_waiting >= 3)
    site.broker.taking_reports = True
    await eventually(lambda: sum(summary.arrived for summary in site.broker.summaries()) == 1)
    await eventually(lambda: site.gateway.session.uplink.summaries_waiting == 0)
    sequences = [summary.sequence for summary in site.broker.summaries()]
    assert sequences == sorted(set(sequences))
    sent = [data["sequence"] for report in site.broker.reports for data in report["summaries"]]
    assert len(sent) == len(set(sent)), "what was acknowledged is not sent again"


@by_topics
@pytest.mark.timeout(180)
async def test_while_kafka_is_away_the_gateway_serves_and_what_waits_is_written_in_order_afterwards(
    site: Site, kafka: RealKafka
) -> None:
    await site.start()
    await eventually(lambda: site.broker.summaries())
    kafka.pause(1)
    try:
        revision = site.broker.move("chat-0-g1", ReplicaPhase.READY)
        for _ in range(30):
            assert (await site.ask()).status == 200
            await asyncio.sleep(0.4)  # longer than a request to Kafka may take, all in all
        assert site.gateway.session.uplink.summaries_waiting > 50
    finally:
        kafka.resume(1)
    await eventually(lambda: sum(summary.arrived for summary in site.broker.summaries()) == 30, limit_s=60.0)
    await eventually(lambda: acknowledged(site) == revision)
    await eventually(lambda: site.gateway.session.uplink.summaries_waiting < 5)
    assert site.gateway.session.uplink.summaries_dropped == 0
    sequences = [summary.sequence for summary in site.broker.summaries()]
    assert sequences == sorted(sequences), "each for the first time in order"
    assert [report["sequence"] for report in site.broker.reports] == sorted(
        report["sequence"] for report in site.broker.reports
    )


async def test_a_model_without_requests_is_reported_as_zero(site: Site) -> None:
    await site.start(models=("later",))
    await eventually(lambda: site.broker.summaries("later") and site.broker.summaries("chat"))
    summary = site.broker.summaries("later")[-1]
    assert (summary.arrived, summary.waiting, summary.oldest_waiting_since) == (0, 0, None)
    assert summary.interval_s == pytest.approx(0.1, abs=0.09)


async def test_stopping_ends_the_session(site: Site) -> None:
    await site.start()
    await site.ask()
    await site.stop_gateway()
    await eventually(lambda: site.broker.reports and site.broker.reports[-1]["closed"])
    await eventually(lambda: sum(summary.finished for summary in site.broker.summaries()) == 1)


async def test_stopping_lets_open_streams_finish_and_takes_no_new_ones(site: Site) -> None:
    await site.start()
    site.engines[0].may_finish.clear()
    asked = asyncio.create_task(site.ask())
    await eventually(lambda: site.engines[0].received)
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
    await eventually(lambda: site.engines[0].received)
    await asyncio.sleep(0.05)
    await site.stop_gateway()
    answer = await asked
    assert answer.broken
    assert "[DONE]" not in answer.events
    await eventually(lambda: sum(summary.failed for summary in site.broker.summaries()) == 1)
