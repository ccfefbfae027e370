"""The log in Kafka under what the contract cannot ask of the others: leaders deposed, Kafka away, large steps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from structlog.testing import capture_logs

from broker.log.kafka.client import Connection, started
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.reader import Reader
from broker.log.kafka.setup import initialised
from broker.log.kafka.state import newest_lease
from broker.log.kafka.topics import TOPICS, Layout
from broker.log.kafka.writer import Terms
from broker.model.errors import LeadershipRefused, LogDamaged, LogError, LogUnreachable
from broker.model.state import ModelState
from tests.integration.kafka.leader import SESSION_S, TERMS
from tests.support.builders import model_spec, step_record
from tests.support.ports import free_ports
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


class _InOtherBytes(str):
    """A header's name as a client writes it that knows nothing of UTF-8."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


SHORT = Terms(lease_s=2.0, patience_s=2.0)

Open = Callable[..., KafkaLog]


@pytest.fixture
def layout(kafka_cluster: str) -> Layout:
    return Layout(kafka_cluster, partitions=2)


@pytest.fixture
async def open_log(kafka: RealKafka, layout: Layout) -> AsyncIterator[Open]:
    """Each call is another broker on the same topics."""
    connection = Connection((kafka.bootstrap_servers,))
    await initialised(connection, layout, alter=False, dry_run=False)
    opened: list[KafkaLog] = []

    def open_one(
        terms: Terms = TERMS, session_s: float = SESSION_S, stand_by: Callable[[str], None] | None = None
    ) -> KafkaLog:
        opened.append(KafkaLog(connection, layout, terms=terms, session_s=session_s, stand_by=stand_by))
        return opened[-1]

    yield open_one
    for log in opened:
        await log.close()


@asynccontextmanager
async def leader_process(kafka: RealKafka, layout: Layout, holder: str) -> AsyncIterator[Process]:
    words = ["-m", "tests.integration.kafka.leader", kafka.bootstrap_servers, layout.prefix, holder, str(SESSION_S)]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process, *beginning: str) -> str:
    """The next line that begins with one of the words."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while line := (await process.stdout.readline()).decode():
            if line.startswith(beginning):
                return line.strip()
    raise AssertionError(f"it ended without saying {beginning}")


async def test_a_step_of_ten_megabytes_comes_back_whole(open_log: Open) -> None:
    log = open_log()
    await log.acquire_leadership("a")
    noise = secrets.token_hex(5 * 2**20)  # does not compress to less than half
    large = ModelState("chat", model_spec("chat"), target=1, memory={"noise": noise})
    record = step_record(1, changes={("model", "chat"): large})
    await log.commit(record)
    await log.commit(step_record(2))
    await log.checkpoint(await log.load())
    assert [step async for step in log.steps()] == [record, step_record(2)]
    assert [step.number async for step in log.steps(after=1)] == [2]
    await log.commit(step_record(3, changes={("model", "other"): dataclasses.replace(large, model_id="other")}))
    assert (await log.load()).state.models["other"].memory == {"noise": noise}


async def test_a_stand_by_is_told_once_who_leads_and_leads_once_that_one_closes(open_log: Open) -> None:
    told: list[str] = []
    first, second = open_log(), open_log(stand_by=told.append)
    await first.acquire_leadership("a")
    await first.commit(step_record(1))
    waiting = asyncio.create_task(second.acquire_leadership("b"))
    await asyncio.sleep(3 * SESSION_S)
    assert told == ["a (epoch 1, step 1)"]
    assert first.may_act()
    await first.commit(step_record(2))
    assert not second.may_act()
    await first.close()
    async with asyncio.timeout(SESSION_S):
        epoch = await waiting
    assert (epoch.number, epoch.holder) == (2, "b")
    assert (await second.load()).number == 2
    await second.commit(step_record(3, epoch=2))


async def test_of_many_that_come_at_once_one_leads(open_log: Open) -> None:
    logs = [open_log() for _ in range(3)]
    outcomes = await asyncio.gather(
        *(log.acquire_leadership(str(index)) for index, log in enumerate(logs)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Epoch", "LeadershipRefused", "LeadershipRefused"]
    await asyncio.sleep(SESSION_S)
    leader = next(log for log in logs if log.may_act())
    await leader.commit(step_record(1))
    assert [log.may_act() for log in logs].count(True) == 1


async def test_a_lease_is_renewed_while_nothing_is_written_and_is_seen_to_be(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    """Renewed leases that looked the same would let a successor act while the last one still holds."""
    log = open_log()
    await log.acquire_leadership("a")
    reader = Reader(Connection((kafka.bootstrap_servers,)), layout, TERMS.patience_s)
    first = await newest_lease(reader, "lease")
    await asyncio.sleep(2 * TERMS.lease_s)
    assert log.may_act()
    last = await newest_lease(reader, "lease")
    assert (last.epoch, last.step) == (first.epoch, first.step)
    assert last.transaction > first.transaction
    await reader.close()


async def test_a_killed_leader_is_succeeded_and_nothing_it_said_is_lost(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    successor = open_log(stand_by=lambda leader: None)
    async with leader_process(kafka, layout, "a") as process:
        await line_of(process, "wrote 5")
        waiting = asyncio.create_task(successor.acquire_leadership("b"))
        await asyncio.sleep(SESSION_S)
        process.kill()
        killed_at = time.monotonic()
        last = (await process.communicate())[0].decode().strip().splitlines()[-1]
        epoch = await waiting
    assert time.monotonic() - killed_at < SESSION_S + TERMS.lease_s + 10
    numbers = [step.number async for step in successor.steps()]
    assert numbers == list(range(1, len(numbers) + 1))
    if last.startswith("wrote"):
        assert int(last.split()[1]) in (numbers[-1], numbers[-1] - 1)
    await successor.commit(step_record(numbers[-1] + 1, epoch=epoch.number))


async def test_a_stand_by_whose_take_over_is_overtaken_stands_by_again_and_leads_in_its_turn(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    """A short pause of Kafka ended one that had never led: the old leader had opened its producer anew after it."""
    connection = Connection((kafka.bootstrap_servers,))
    successor = open_log(Terms(lease_s=8.0, patience_s=5.0), stand_by=lambda leader: None)
    with capture_logs() as told:
        async with leader_process(kafka, layout, "a") as process:
            await line_of(process, "wrote 5")
            waiting = asyncio.create_task(successor.acquire_leadership("b"))
            await asyncio.sleep(SESSION_S)
            process.kill()
            await eventually(lambda: [line for line in told if line["event"] == "state_rebuilt"], "it takes over", 30.0)
            async with started(connection, connection.producer(transactional_id=layout.transactional_id)):
                epoch = await waiting
    assert (epoch.number, epoch.holder) == (2, "b")
    assert [line["event"] for line in told if line["event"] in ("state_rebuilt", "take_over_overtaken")] == [
        "state_rebuilt", "take_over_overtaken", "state_rebuilt",
    ]  # fmt: skip


async def test_a_paused_leader_comes_back_deposed_and_changes_nothing(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    successor = open_log(stand_by=lambda leader: None)
    async with leader_process(kafka, layout, "a") as process:
        await line_of(process, "wrote 5")
        waiting = asyncio.create_task(successor.acquire_leadership("b"))
        await asyncio.sleep(SESSION_S)
        process.send_signal(signal.SIGSTOP)
        epoch = await waiting
        number = (await successor.load()).number
        await successor.commit(step_record(number + 1, epoch=epoch.number))
        process.send_signal(signal.SIGCONT)
        words = await line_of(process, "deposed")
        await process.wait()
    assert words.startswith("deposed False")
    assert "taken over by b (epoch 2" in words
    assert successor.may_act()
    await successor.commit(step_record(number + 2, epoch=epoch.number))
    epochs = {step.number: step.epoch async for step in successor.steps()}
    assert epochs == {step: 1 if step <= number else 2 for step in range(1, number + 3)}


async def test_a_paused_leader_may_not_act_when_it_wakes(kafka: RealKafka, layout: Layout, open_log: Open) -> None:
    open_log()
    async with leader_process(kafka, layout, "a") as process:
        await line_of(process, "wrote 5")
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)
        assert process.stdout is not None
        while line := await read_at_once(process.stdout):  # what it said before
            assert not line.startswith("must")
        await asyncio.sleep(2 * TERMS.lease_s)
        process.send_signal(signal.SIGCONT)
        assert await line_of(process, "might", "must") == "must not act"


async def read_at_once(stream: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(0.2):
            return (await stream.readline()).decode()
    except TimeoutError:
        return ""


async def steps_once_it_answers(log: KafkaLog) -> list[int]:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(LogUnreachable):
                return [step.number async for step in log.steps()]


async def test_what_a_paused_kafka_leaves_uncertain_is_read_before_going_on(kafka: RealKafka, open_log: Open) -> None:
    log = open_log(SHORT, session_s=30.0)
    await log.acquire_leadership("a")
    await log.commit(step_record(1))
    committing = asyncio.create_task(log.commit(step_record(2)))
    await asyncio.sleep(0.003)
    kafka.pause(1)
    try:
        (outcome,) = await asyncio.gather(committing, return_exceptions=True)
        with pytest.raises(LogUnreachable):
            await log.commit(step_record(3))
        assert not log.may_act()
        with pytest.raises(LogUnreachable):
            _ = [step async for step in log.steps()]
    finally:
        kafka.resume(1)
    numbers = await steps_once_it_answers(log)
    assert numbers in ([1], [1, 2])
    assert outcome is not None or numbers == [1, 2]
    for number in range(numbers[-1] + 1, 6):
        await log.commit(step_record(number))
    assert log.may_act()
    # A Kafka that was paused took longer than our patience, on two busy cores, to mark the end of what was committed.
    assert await steps_once_it_answers(log) == [1, 2, 3, 4, 5]
    assert (await log.load()).number == 5


async def test_a_killed_kafka_comes_back_with_everything(kafka: RealKafka, open_log: Open) -> None:
    log = open_log(TERMS)
    await log.acquire_leadership("a")
    for number in range(1, 6):
        await log.commit(step_record(number))
    kafka.kill(1)  # as it marks the end of the last one, or before: then it forgets to
    with pytest.raises(LogUnreachable, match=r"does not answer|did not take"):
        await log.commit(step_record(6))
    kafka.restart(1)
    numbers = await steps_once_it_answers(log)
    assert numbers in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    await log.commit(step_record(numbers[-1] + 1))
    assert await steps_once_it_answers(log) == [*numbers, numbers[-1] + 1]


async def test_a_kafka_that_is_not_there_is_told_in_bounded_time(layout: Layout) -> None:
    (port,) = free_ports(1)
    log = KafkaLog(Connection((f"127.0.0.1:{port}",)), layout)
    began = time.monotonic()
    with pytest.raises(LogUnreachable, match=f"127.0.0.1:{port} does not answer"):
        await log.acquire_leadership("a")
    assert time.monotonic() - began < 20
    await log.close()


async def test_a_message_that_aiokafka_cannot_read_is_passed_over_and_what_lies_around_it_is_read(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    """Other clients name headers in any bytes. One such message ended each broker, worker and scraper that met it, and
    those that were started in their place."""
    connection = Connection((kafka.bootstrap_servers,))
    async with started(connection, connection.producer()) as producer:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 2**14)
        for number in range(20):
            name = _InOtherBytes("name") if number in (7, 8) else "name"
            batch.append(timestamp=None, key=None, value=b"%d" % number, headers=[(name, b"")])
        batch.close()
        await (await producer.send_batch(batch, layout.name("signals"), partition=0))
        await producer.send_and_wait(layout.name("signals"), b"20", partition=0)
    reader = Reader(connection, layout)
    with capture_logs() as lines:
        found = [int(message.value or b"") async for message in reader.forwards("signals")]
    await reader.close()
    assert found == [number for number in range(21) if number < 7] + [20]
    assert [line["offset"] for line in lines if line["event"] == "messages_passed_over"] == [7]


async def test_a_log_that_was_emptied_is_not_taken_for_a_new_one(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    connection, leaders = Connection((kafka.bootstrap_servers,)), list[str]()
    first, second = open_log(), open_log(stand_by=leaders.append)
    await first.acquire_leadership("a")
    await first.commit(step_record(1))
    waiting = asyncio.create_task(second.acquire_leadership("b"))
    await eventually(lambda: bool(leaders), "the second stands by")
    async with started(connection, connection.admin()) as admin:
        await admin.delete_topics([layout.name(topic) for topic in TOPICS])
    await asyncio.sleep(2.0)
    await initialised(connection, layout, alter=False, dry_run=False)
    problem = ""
    for _ in range(60):
        try:
            await first.commit(step_record(2))
        except LogError as error:
            problem = str(error)
        if "has lost" in problem:
            break
        await asyncio.sleep(0.5)
    assert "has lost what it held" in problem
    assert not first.may_act()
    await first.close()
    with pytest.raises(LogDamaged, match="has lost what it held"):
        await asyncio.wait_for(waiting, 60)


async def test_missing_topics_are_named(kafka: RealKafka) -> None:
    log = KafkaLog(Connection((kafka.bootstrap_servers,)), Layout("nobody-made-these"))
    with pytest.raises(LogError, match=r"lacks the topics nobody-made-these\.signals.*tidegate topics init"):
        await log.acquire_leadership("a")
    await log.close()


async def test_a_leader_that_is_deposed_amid_a_large_write_is_told_so(
    kafka: RealKafka, layout: Layout, open_log: Open
) -> None:
    """It ended by "Can't send messages while not in transaction"."""
    connection, log = Connection((kafka.bootstrap_servers,)), open_log()
    await log.acquire_leadership("a")
    async with started(connection, connection.producer(transactional_id=layout.transactional_id)):
        with pytest.raises(LeadershipRefused):
            await log.append("usage", [{"number": number} for number in range(20_000)])


async def test_a_deposed_leader_refuses_whatever_is_asked_of_it(open_log: Open) -> None:
    first, second = open_log(), open_log()
    await first.acquire_leadership("a")
    await first.commit(step_record(1))
    assert first._leading is not None
    await first._leading[0].leave()  # as if its session had ended
    await second.acquire_leadership("b")
    with pytest.raises(LeadershipRefused, match="taken over by"):
        await first.commit(step_record(2))
    await asyncio.sleep(0.5)  # a lease that was just committed is not seen at once
    with pytest.raises(LeadershipRefused, match=r"taken over by b \(epoch 2"):
        await first.commit(step_record(2))
    with pytest.raises(LeadershipRefused):
        _ = [step async for step in first.steps()]
    assert not first.may_act()
    assert [step.number async for step in second.steps()] == [1]
