"""Kafka itself goes away: all of it, one of its nodes, the controller, one after the other, or for want of room."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.log.kafka.writer import Terms
from broker.model.errors import LogError
from broker.model.observation import Override
from tests.faults.cluster import MODEL_ID, Cluster, load
from tests.faults.conftest import SEED, Note
from tests.faults.kafka.cluster import KafkaCluster, kafka_cluster
from tests.faults.log_refusals import serves_on_while_its_log_refuses
from tests.support.builders import step_record
from tests.support.real_kafka import RealKafka, why_not
from tests.support.small_disk import fill, small_disk_at
from tests.support.waiting import eventually, until_answered

KILLS = 4
AWAY_S = 120.0
SHORTLY_AWAY_S = 20.0


@pytest.fixture
def lone_node() -> Iterator[RealKafka]:
    """Of the test's own: one that has the topics of all tests needs a minute to come back."""
    yield from nodes(1)


@pytest.fixture
def three_nodes() -> Iterator[RealKafka]:
    yield from nodes(3)


def nodes(count: int) -> Iterator[RealKafka]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with RealKafka(count) as kafka:
        yield kafka


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_kafka_is_gone_for_two_minutes_and_what_waited_is_written_in_order(
    lone_node: RealKafka, tmp_path: Path, note: Note
) -> None:
    await gone(lone_node, tmp_path, AWAY_S, note)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_kafka_is_gone_for_a_while_and_what_waited_is_written_in_order(
    lone_node: RealKafka, tmp_path: Path, note: Note
) -> None:
    await gone(lone_node, tmp_path, SHORTLY_AWAY_S, note)


async def gone(kafka: RealKafka, folder: Path, for_s: float, note: Note) -> None:
    async with kafka_cluster(kafka, folder, ready=2) as running, load(running) as streams:
        kafka.kill(1)
        began = time.monotonic()
        answers = await asyncio.gather(*(_order(running, target, 0.2 * target) for target in (2, 3)))
        assert [("not written down" in answer) for answer in answers] == [True, True], answers

        def recover() -> None:
            nonlocal began
            kafka.restart(1)
            began = time.monotonic()

        await serves_on_while_its_log_refuses(running, "Kafka at", recover, for_s)
        note(f"as wanted {time.monotonic() - began:.1f} s after Kafka was back")
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()
    assert await _ordered(running) == [2, 2, 3, 2]


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_one_node_of_three_is_killed_then_the_controller_then_all_are_started_anew(
    three_nodes: RealKafka, tmp_path: Path, note: Note
) -> None:
    async with kafka_cluster(three_nodes, tmp_path, ready=2) as running, load(running) as streams:
        a_follower = next(node for node in three_nodes.nodes if node != three_nodes.controller())
        for what, node in (("a node", a_follower), ("the controller", three_nodes.controller())):
            three_nodes.kill(node)
            note(f"three replicas {await _still_scales(running):.1f} s after {what} was killed")
            await asyncio.to_thread(three_nodes.restart, node)
        await asyncio.to_thread(three_nodes.stop)
        before = running.processes()
        await asyncio.sleep(SHORTLY_AWAY_S)
        assert running.processes() == before
        await asyncio.to_thread(three_nodes.start)
        note(f"three replicas {await _still_scales(running):.1f} s after all were started anew")
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_a_lone_node_is_killed_again_and_again_right_after_a_commit(
    lone_node: RealKafka, kafka_cluster: str, note: Note
) -> None:
    await killed_after_commits(lone_node, kafka_cluster, note)


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_all_nodes_are_killed_at_once_again_and_again_right_after_a_commit(
    three_nodes: RealKafka, kafka_cluster: str, note: Note
) -> None:
    await killed_after_commits(three_nodes, kafka_cluster, note)


async def killed_after_commits(kafka: RealKafka, cluster: str, note: Note) -> None:
    """What was committed is read by others without another commit, also where Kafka forgot that it was."""
    connection, layout, dice = Connection(tuple(kafka.bootstrap_servers.split(","))), Layout(cluster), Random(SEED)
    await initialised(connection, layout, alter=False, dry_run=False)
    log = KafkaLog(connection, layout, terms=Terms(lease_s=2.0), session_s=60.0)
    try:
        await log.acquire_leadership("a")
        for last in range(5, 5 * KILLS + 1, 5):
            for number in range(last - 4, last + 1):
                await log.commit(step_record(number))
            await asyncio.sleep(dice.uniform(0.0, 0.004))
            kill_all(kafka)
            await asyncio.to_thread(kafka.start)
            await eventually(log.may_act, "it leads on", 60)
            await others_read(log, [*range(1, last + 1)])
    finally:
        await log.close()
    forgot = sum(
        "likely deleted already" in line and f"for {layout.transactional_id}," in line
        for node in kafka.nodes
        for line in (kafka.folder / f"node{node}" / "server.log").read_text().splitlines()
    )
    note(f"killed {KILLS} times, and Kafka forgot {forgot} times that a transaction was committed")


def kill_all(kafka: RealKafka) -> None:
    for node in kafka.nodes:
        kafka.pause(node)  # so that none is told of another's death
    for node in kafka.nodes:
        kafka.kill(node)


async def others_read(log: KafkaLog, steps: list[int]) -> None:
    reader = log.reader()

    async def found() -> list[int]:
        with contextlib.suppress(LogError):
            return [step.number async for step in reader.steps()]
        return []

    try:
        await until_answered(found, lambda numbers: numbers == steps, f"{len(steps)} steps can be read", 60)
    finally:
        await reader.close()


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_the_disk_of_one_node_of_three_is_full(three_nodes: RealKafka, tmp_path: Path, note: Note) -> None:
    data, kept = three_nodes.data(2), tmp_path / "kept"
    three_nodes.kill(2)
    shutil.copytree(data, kept)
    with small_disk_at(data, "64m"):
        shutil.copytree(kept, data, dirs_exist_ok=True)
        await asyncio.to_thread(three_nodes.start)
        async with kafka_cluster(three_nodes, tmp_path / "site", ready=2) as running, load(running) as streams:
            fill(data / "ballast")
            await eventually(lambda: not three_nodes.runs(2), "the node gives up")
            note(f"three replicas {await _still_scales(running):.1f} s after the node gave up")
            (data / "ballast").unlink()
            await asyncio.to_thread(three_nodes.restart, 2)
            await _still_scales(running)
            streams.stop()
        streams.all_finished()
        running.no_traceback()
        await running.the_log_tells_one_story()
        await asyncio.to_thread(three_nodes.stop)


async def _still_scales(running: KafkaCluster) -> float:
    """To three replicas, which takes so many seconds, and back to two; until it can, nothing is started or stopped."""
    before, began = running.processes(), time.monotonic()
    await until_answered(lambda: _order(running, 3, 0.5), lambda answer: "error" not in answer, "it takes an order", 60)
    assert before <= running.processes()
    await running.settled(3)
    took_s = time.monotonic() - began
    await running.scale(2)
    await running.settled(2)
    await running.no_orphan_no_double()
    return took_s


async def _order(running: Cluster, target: int, after_s: float) -> str:
    """What the broker answers."""
    await asyncio.sleep(after_s)
    body = {"model_id": MODEL_ID, "target": target, "for_s": 600, "because": "a test", "author": "tests"}
    async with running.operator() as client:
        return (await client.post("/v1/overrides", json=body, timeout=20.0)).text


async def _ordered(running: KafkaCluster) -> list[int | None]:
    """The targets that were ordered, as they were written."""
    log = running.opened_log()
    try:
        observations = [observation async for step in log.steps() for observation in step.observations]
    finally:
        await log.close()
    return [seen.target for seen in observations if isinstance(seen, Override)]
