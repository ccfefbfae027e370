"""Following the broker's registry through everything that may happen to it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from broker.model.replica import ReplicaPhase
from tests.integration.gateway.site import QUICK, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

READY, DRAINING, GONE = ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.GONE


def ready_names(site: Site) -> list[str]:
    return sorted(record.endpoint_id for record in site.gateway.table.records() if record.phase is READY)


async def applied(site: Site, revision: int) -> None:
    await eventually(lambda: site.gateway.table.applied_revision == revision)


async def test_changes_are_followed_as_they_come(site: Site) -> None:
    await site.start()
    await site.add_engine(1)
    await applied(site, 2)
    assert ready_names(site) == ["chat-0-g1", "chat-1-g1"]
    await applied(site, site.broker.move("chat-0-g1", DRAINING))
    assert ready_names(site) == ["chat-1-g1"]
    await applied(site, site.broker.move("chat-0-g1", GONE))
    assert [record.endpoint_id for record in site.gateway.table.records()] == ["chat-1-g1"]
    assert (site.broker.streams_opened, site.broker.snapshots_served) == (1, 0)


async def test_a_missed_change_is_noticed_by_the_next_one(site: Site) -> None:
    await site.start(engines=2)
    site.broker.lose(replace(site.engines[0].record(), phase=DRAINING))
    await applied(site, site.broker.move("chat-1-g1", READY))
    assert ready_names(site) == ["chat-1-g1"]


async def test_a_missed_change_is_noticed_by_the_lease(site: Site) -> None:
    await site.start()
    await applied(site, site.broker.lose(replace(site.engines[0].record(), phase=DRAINING)))
    assert ready_names(site) == []


async def test_without_a_stream_the_snapshot_is_polled(site: Site) -> None:
    site.broker.streaming = False
    await site.start()
    await applied(site, site.broker.move("chat-0-g1", DRAINING))
    assert ready_names(site) == []
    assert not site.gateway.registry.away


async def test_the_table_freezes_while_the_broker_is_away_and_goes_on_after(site: Site) -> None:
    await site.start(engines=2)
    await site.broker.stop()
    await eventually(lambda: site.gateway.registry.away)
    assert ready_names(site) == ["chat-0-g1", "chat-1-g1"]
    assert (await site.ask()).events[-1] == "[DONE]"
    await site.broker.start()
    await applied(site, site.broker.move("chat-0-g1", GONE))
    assert not site.gateway.registry.away
    assert ready_names(site) == ["chat-1-g1"]


async def test_endpoints_are_probed_by_the_gateway_only_while_the_broker_is_away(site: Site) -> None:
    await site.start(engines=2)
    await asyncio.sleep(0.3)
    assert [engine.probes for engine in site.engines] == [0, 0]
    site.engines[0].healthy = False
    await site.broker.stop()
    await eventually(site.gateway.table.unhealthy)
    answers = [await site.ask() for _ in range(4)]
    assert all(answer.events[-1] == "[DONE]" for answer in answers)
    assert len(site.engines[0].received) == 0
    site.engines[0].healthy = True
    await eventually(lambda: not site.gateway.table.unhealthy())
    await site.ask()
    assert len(site.engines[0].received) == 1


async def test_an_endpoint_past_its_time_is_left_out_while_the_broker_is_away(site: Site) -> None:
    await site.start(engines=2)
    await applied(site, site.broker.publish(site.engines[0].record(not_after=1.0)))
    await site.broker.stop()
    for _ in range(3):
        await site.ask()
    assert [len(engine.received) for engine in site.engines] == [0, 3]


async def test_a_broker_whose_lease_stands_still_counts_as_away(site: Site) -> None:
    await site.start()
    site.broker.lease_moves = False
    await eventually(lambda: site.gateway.registry.away)
    site.broker.lease_moves = True
    await eventually(lambda: not site.gateway.registry.away)


async def test_unreadable_answers_change_nothing(site: Site) -> None:
    await site.start()
    site.broker.garbled = True
    await eventually(lambda: site.broker.snapshots_served > 1)
    await eventually(lambda: site.gateway.registry.away)
    assert ready_names(site) == ["chat-0-g1"]
    site.broker.garbled = False
    await applied(site, site.broker.move("chat-0-g1", DRAINING))


async def test_a_broker_that_began_anew_is_followed(site: Site) -> None:
    await site.start(engines=2)
    site.broker.begin_anew(site.engines[1].record())
    await applied(site, 1)
    assert ready_names(site) == ["chat-1-g1"]


async def test_the_registry_of_another_cluster_changes_nothing(site: Site) -> None:
    await site.start()
    site.broker.begin_anew(cluster="elsewhere")
    await eventually(lambda: site.broker.snapshots_served > 1)
    assert ready_names(site) == ["chat-0-g1"]
    assert site.gateway.table.applied_revision == 1


async def test_a_gateway_with_a_wrong_token_knows_nothing_and_says_so(site: Site) -> None:
    await site.broker.start()
    await site.start_gateway(token="wrong", limits=replace(QUICK, hold_s=0.1))
    await asyncio.sleep(0.2)
    assert not site.gateway.table.populated
    assert (await site.ask()).status == 503, "it cannot know whether the model exists"


async def test_an_empty_registry_of_the_same_cluster_is_believed(site: Site) -> None:
    await site.start()
    site.broker.begin_anew()
    await applied(site, 0)
    assert ready_names(site) == []


async def test_a_retired_model_is_not_found_once_its_last_endpoint_is_gone(site: Site) -> None:
    await site.start()
    site.broker.declare("other")
    site.broker.move("chat-0-g1", ReplicaPhase.DRAINING)
    site.broker.move("chat-0-g1", ReplicaPhase.GONE)
    await eventually(lambda: site.gateway.table.models() == ["other"])
    answer = await site.ask()
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert [model["id"] for model in json.loads((await site.get("/v1/models")).body)["data"]] == ["other"]


async def test_requests_held_for_a_model_that_is_retired_are_told_at_once(site: Site) -> None:
    site.broker.models = ["chat"]
    await site.start(engines=0, limits=replace(QUICK, hold_s=60.0))
    asked = asyncio.create_task(site.ask())
    await eventually(lambda: any(tally.held for _, tally in site.gateway.tallies.items()))
    site.broker.declare("other")
    answer = await asked
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_a_declared_model_without_endpoints_is_waited_for(site: Site) -> None:
    site.broker.models = ["chat"]
    await site.start(engines=0)
    answer = await site.ask()
    assert (answer.status, answer.error["code"]) == (503, "no_ready_replica")


@pytest.mark.parametrize("url", ["http://[::bad", "http://127.0.0.1:99999", "ftp://127.0.0.1", "nowhere"])
async def test_an_endpoint_without_a_usable_address_is_an_upstream_error(site: Site, url: str) -> None:
    await site.start()
    revision = site.broker.publish(replace(site.engines[0].record(), url=url))
    await applied(site, revision)
    answer = await site.ask()
    assert (answer.status, answer.error["type"]) == (502, "upstream_error")
