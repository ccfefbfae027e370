"""How a client of Kafka meets what the cluster does."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from broker.log.kafka.client import Connection, start, stop
from broker.model.errors import LogUnreachable


class NamesNoNode:
    """A client whose cluster has just come back: aiokafka asserts that there is a node to ask."""

    client: None = None

    async def start(self) -> None:
        raise AssertionError("Did we not perform bootstrap?")


async def test_a_cluster_that_names_no_node_for_a_moment_is_not_reachable_rather_than_a_bug() -> None:
    """Raised as it was, it reached whoever waited for a commit, once in CI after a pause of the only node."""
    with pytest.raises(LogUnreachable, match="at kafka-1:9092 names no node that answers"):
        await start(Connection(("kafka-1:9092",)), NamesNoNode())


class CancelsItsOwn:
    """A client that waits for a task of its own which was cancelled, as aiokafka's fetcher while Kafka comes back."""

    client: None = None

    async def stop(self) -> None:
        fetching = asyncio.create_task(asyncio.sleep(60.0))
        fetching.cancel()
        await fetching


async def test_a_client_that_cancels_a_task_of_its_own_does_not_cancel_whoever_stops_it() -> None:
    """A broker that was to end by words and a status ended by a traceback."""
    await stop(CancelsItsOwn())


async def test_who_is_cancelled_while_stopping_a_client_is_cancelled() -> None:
    class Waits(CancelsItsOwn):
        async def stop(self) -> None:
            await asyncio.sleep(60.0)

    stopping = asyncio.create_task(stop(Waits()))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


class NeverStarted:
    """A client of aiokafka before it has found a server: it has none of its parts yet."""

    client = _client = _coordinator = _fetcher = None

    async def start(self) -> None:
        raise KafkaConnectionError("nobody is there")


async def test_a_client_that_does_not_start_takes_no_task_of_others_with_it() -> None:
    """`tidegate run` ended by a traceback where Kafka did not answer: its own first task had been cancelled."""
    others = asyncio.create_task(asyncio.sleep(0.05, "goes on"))
    with pytest.raises(LogUnreachable):
        await start(Connection(("127.0.0.1:1",)), NeverStarted())
    assert await others == "goes on"
