"""The log contract on every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.log.memory import MemoryLog, MemoryStore
from broker.log.sqlite import SqliteLog
from broker.model.ports import Log
from tests.contracts.log_contract import LogContract, LogHome, RegistryLog
from tests.support.builders import step_record
from tests.support.real_kafka import RealKafka


class MemoryHome(LogHome):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    def make(self) -> RegistryLog:
        return MemoryLog(self.store)


class SqliteHome(LogHome):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self) -> RegistryLog:
        return SqliteLog(self.path)


class KafkaHome(LogHome):
    def __init__(self, connection: Connection, layout: Layout) -> None:
        super().__init__()
        self.connection = connection
        self.layout = layout

    def make(self) -> RegistryLog:
        return KafkaLog(self.connection, self.layout)


class TestMemoryLog(LogContract):
    @pytest.fixture
    async def home(self) -> AsyncIterator[LogHome]:
        home = MemoryHome()
        yield home
        await home.close()

    def test_no_method_ever_suspends(self) -> None:
        log: Log = MemoryLog()
        run_without_loop(log.acquire_leadership("simulator"))
        for number in (1, 2, 3):
            run_without_loop(log.append("requests", [number]))
            run_without_loop(log.commit(step_record(number)))
            run_without_loop(log.checkpoint(run_without_loop(log.load())))
        steps = log.steps().__aiter__()
        assert run_without_loop(anext_of(steps)).number == 1
        run_without_loop(log.decisions("chat"))
        run_without_loop(log.trim(2e9))
        run_without_loop(log.close())


class TestSqliteLog(LogContract):
    @pytest.fixture
    async def home(self, tmp_path: Path) -> AsyncIterator[LogHome]:
        home = SqliteHome(tmp_path / "log.db")
        yield home
        await home.close()


@pytest.mark.integration
class TestKafkaLog(LogContract):
    @pytest.fixture
    async def home(self, kafka: RealKafka, kafka_cluster: str) -> AsyncIterator[LogHome]:
        home = KafkaHome(Connection((kafka.bootstrap_servers,)), Layout(kafka_cluster, partitions=2))
        await initialised(home.connection, home.layout, alter=False, dry_run=False)
        yield home
        await home.close()


async def anext_of(steps: AsyncIterator[Any]) -> Any:
    return await anext(steps)


def run_without_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value
