"""`tidegate state import` into Kafka: an embedded site moves there, and its broker goes on where it was."""

from __future__ import annotations

import secrets
from asyncio import to_thread
from pathlib import Path

import pytest
from typer.testing import Result

from broker.log.kafka.log import KafkaLog
from broker.log.sqlite import SqliteLog
from broker.model.errors import LogError
from broker.model.state import ModelState
from cli.output import Exit
from tests.integration.kafka.sites import told
from tests.support.builders import START, model_spec, step_record
from tests.support.command_line import tidegate
from tests.support.decided_log import decide

pytestmark = pytest.mark.integration

STEPS = 25


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


@pytest.fixture
async def embedded(tmp_path: Path) -> Path:
    """The file of a site whose broker was started twice, trimmed."""
    file = SqliteLog(tmp_path / "tidegate.sqlite")
    for _ in range(2):
        await decide(file, steps=STEPS)
        await file.trim(START + 15)
        await file.close()
    return file.path


def moved(source: Path, folder: Path, *words: str) -> Result:
    return tidegate("state", "import", source, *words, "--site", folder / "site.yaml")


@pytest.mark.parametrize("by_backup", [False, True], ids=["from its file", "from a backup"])
async def test_a_broker_goes_on_in_kafka_where_it_was(
    log: KafkaLog, embedded: Path, tmp_path: Path, by_backup: bool
) -> None:
    source = tmp_path / "backup" if by_backup else embedded
    if by_backup:
        tidegate("state", "export", source, "--log", embedded)
    result = await to_thread(moved, source, tmp_path)
    assert (result.exit_code, f"stands at step {2 * STEPS}" in result.output) == (Exit.OK, True), result.output

    before = SqliteLog(embedded)
    assert await log.load() == await before.load()
    assert await log.endpoints() == await before.endpoints()
    assert [step async for step in log.steps()] == [step async for step in before.steps()]
    assert [kept async for kept in log.checkpoints()] == [kept async for kept in before.checkpoints()]
    assert await log.decisions() == await before.decisions()
    await decide(log, steps=5, holder="a broker of the moved site")
    assert [step.epoch async for step in log.steps(after=2 * STEPS)] == [4] * 5
    await log.close()
    status, proof = await to_thread(told, tmp_path, "replay-log")
    assert (status, proof["different"]) == (Exit.OK, None)


async def test_nothing_is_written_over(log: KafkaLog, embedded: Path, tmp_path: Path) -> None:
    await log.acquire_leadership("a broker")
    await log.commit(step_record(1))
    await log.close()
    result = await to_thread(moved, embedded, tmp_path)
    assert (result.exit_code, "there are steps up to 1 already" in result.stderr) == (Exit.FAILED, True)
    assert (await log.load()).number == 1
    result = await to_thread(moved, embedded, tmp_path, "--force")
    assert (result.exit_code, "cannot be set aside" in result.stderr) == (Exit.USAGE, True)
    await log.close()


async def test_neither_log_may_be_led_by_a_broker(log: KafkaLog, embedded: Path, tmp_path: Path) -> None:
    for leader in (log, SqliteLog(embedded)):
        await leader.acquire_leadership("a broker that runs")
        result = await to_thread(moved, embedded, tmp_path)
        assert (result.exit_code, "led by a broker that runs" in result.stderr) == (Exit.REFUSED, True)
        await leader.close()
    assert (await log.load()).number == 0
    await log.close()


async def test_a_half_import_is_no_log_and_is_done_again(log: KafkaLog, tmp_path: Path) -> None:
    def interrupt(number: int) -> None:
        if number == 5:
            raise Interrupted

    source = await large(tmp_path / "large.sqlite", steps=6)
    with pytest.raises(Interrupted):
        await log.receive(source, 3, interrupt)
    await log.close()
    assert 0 < len([step async for step in log.steps()]) < 5
    with pytest.raises(LogError, match="import did not end, do `tidegate state import` again"):
        await log.acquire_leadership("a broker")
    with pytest.raises(LogError, match="import did not end, do `tidegate state import` again"):
        await log.load()
    await log.close()

    assert (await to_thread(moved, source.path, tmp_path)).exit_code == Exit.OK
    assert await log.load() == await source.load()
    assert [step async for step in log.steps()] == [step async for step in source.steps()]
    await log.close()


async def large(path: Path, *, steps: int) -> SqliteLog:
    """A log whose steps are moved two at a time."""
    log = SqliteLog(path)
    await log.acquire_leadership("a broker")
    for number in range(1, steps + 1):
        noisy = ModelState("chat", model_spec("chat"), target=1, memory={"noise": secrets.token_hex(2**20 + number)})
        await log.commit(step_record(number, changes={("model", "chat"): noisy}))
    await log.close()
    return log
