"""What holds for every test."""

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

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
