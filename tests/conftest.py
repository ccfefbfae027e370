"""What holds for every test."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests.faults.conftest import SEED
from tests.support import real_kafka

# looptime asks for the main thread's event loop before synchronous tests too. Unless told that there is none, Python
# before 3.14 makes one then, which nobody closes: a warning, hence an error, when a later test is collected.
asyncio.set_event_loop(None)

# How long an example takes is the machine's affair: on one that does something else besides, good code failed.
settings.register_profile("tidegate", deadline=None)
settings.load_profile("tidegate")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command under test configures logging for its process, onto a stream that is closed after the test: the next
    test that logs would fail on it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka() -> Iterator[real_kafka.RealKafka]:
    """One node for all the tests of a process: each keeps to the topics of its own ``kafka_cluster``."""
    if (reason := real_kafka.why_not()) is not None:
        pytest.skip(reason)
    with real_kafka.RealKafka() as kafka:
        yield kafka


@pytest.fixture
def kafka_cluster() -> str:
    """A cluster's name that no other test has."""
    return f"test-{secrets.token_hex(4)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seed of the fault tests and what they measured, which their own processes cannot print."""
    stats = terminalreporter.stats
    reports = [one for one in [*stats.get("passed", []), *stats.get("failed", [])] if "tests/faults/" in one.nodeid]
    if reports:
        terminalreporter.write_line(f"faults: TIDEGATE_FAULT_SEED={SEED}")
    for report in reports:
        for _, figure in report.user_properties:
            terminalreporter.write_line(f"faults: {report.nodeid.rpartition('::')[2]}: {figure}")
