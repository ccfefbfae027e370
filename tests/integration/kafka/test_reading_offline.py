"""Commands that read a broker's log without a broker, where it is in Kafka."""

from __future__ import annotations

from asyncio import to_thread
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.app.explaining import Explainer
from broker.log.kafka.log import KafkaLog
from broker.log.memory import MemoryLog
from broker.log.sqlite import SqliteLog
from broker.model.starts import StartTime, StartTimes, starts_entity_key
from cli.output import Exit
from policies.registry import cached
from tests.integration.kafka.sites import told, write_site
from tests.support.builders import START, step_record
from tests.support.command_line import tidegate
from tests.support.decided_log import decide
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

STEPS = 25
FIVE_SECONDS_TO_GO = datetime.fromtimestamp(START + STEPS - 5, UTC).isoformat()


async def test_what_a_broker_decided_is_decided_alike_while_it_leads(log: KafkaLog, tmp_path: Path) -> None:
    await decide(log, steps=STEPS)
    whole = await to_thread(told, tmp_path, "replay-log")
    assert whole == (Exit.OK, {"steps": STEPS, "different": None, "differences": []})
    _, part = await to_thread(told, tmp_path, "replay-log", "--from", FIVE_SECONDS_TO_GO)
    assert 5 <= part["steps"] < STEPS
    await log.close()


async def test_a_leader_explains_its_last_decision_from_its_log(log: KafkaLog) -> None:
    await decide(log, steps=STEPS)
    explanation = await Explainer(log, cached())("chat")
    assert explanation is not None
    assert explanation.decision == (await log.decisions("chat", limit=1))[0]
    assert log.may_act()
    await log.close()


async def test_what_is_decided_otherwise_is_shown(log: KafkaLog, tmp_path: Path) -> None:
    decided = MemoryLog()
    await decide(decided, steps=STEPS)
    await log.acquire_leadership("a broker of another version")
    async for record in decided.steps():
        decisions = tuple(replace(decision, target=7) for decision in record.decisions if record.number > 20)
        await log.commit(replace(record, decisions=decisions or record.decisions))
    await log.close()
    status, proof = await to_thread(told, tmp_path, "replay-log")
    assert (status, proof["steps"], proof["different"]) == (Exit.FAILED, 22, 23)
    assert proof["differences"] == ["decision on chat, target: recorded 7, replayed 3"]


async def test_a_backup_of_a_trimmed_log_is_one_of_a_file(log: KafkaLog, tmp_path: Path) -> None:
    await decide(log, steps=STEPS)
    await log.trim(START + 15)
    backup, file = tmp_path / "backup", tmp_path / "log.sqlite"
    exported = await to_thread(tidegate, "state", "export", backup, "--site", tmp_path / "site.yaml")
    assert f"exported as of step {STEPS}" in exported.stderr
    imported = await to_thread(tidegate, "state", "import", backup, "--log", file)
    assert imported.exit_code == Exit.OK
    copy = SqliteLog(file)
    assert await copy.load() == await log.load()
    assert await copy.endpoints() == await log.endpoints()
    assert [step async for step in copy.steps()] == [step async for step in log.steps()]
    assert [kept async for kept in copy.checkpoints()] == [kept async for kept in log.checkpoints()]
    assert await copy.decisions() == await log.decisions()
    assert (await copy.acquire_leadership("a broker")).number == 2
    await copy.close()
    await log.close()


async def test_what_was_learned_of_starts_is_told(log: KafkaLog, tmp_path: Path) -> None:
    await log.acquire_leadership("a broker")
    learned = StartTimes("shared", "chat", 2, (StartTime(START, 15.0, 40.0),))
    await log.commit(step_record(changes={("starts", starts_entity_key("chat", "shared")): learned}))
    await log.close()
    status, document = await to_thread(told, tmp_path, "state", "waits")
    assert (status, document["starts"][0]["latest"][0]["queue_s"]) == (Exit.OK, 15.0)


def test_a_kafka_that_is_not_there_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    write_site(tmp_path, "hpc", bootstrap_servers=f"127.0.0.1:{port}")
    for command in ("state export -", "state waits", "replay-log"):
        result = tidegate(*command.split(), "--site", tmp_path / "site.yaml")
        assert (result.exit_code, f"127.0.0.1:{port} does not answer" in result.stderr) == (Exit.FAILED, True)
