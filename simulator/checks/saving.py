"""What a run leaves behind when it ends by a mistake of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from broker.model.errors import ConfigError, InvariantViolated, TidegateError
from simulator.checks.saved import SavedObservations, write_saved


class Saveable(Protocol):
    """A simulation."""

    @property
    def failure(self) -> SavedObservations | None: ...

    def saved(self, error: BaseException) -> SavedObservations: ...


@contextmanager
def saved_on_error(simulation: Saveable, folder: Path | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Write what was observed before a violation or an error that nobody foresaw, and around the first step that could
    not be decided, to files in ``folder`` (None: nothing is written), and ``tell`` where. The error goes on its way."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InvariantViolated) or not isinstance(error, TidegateError):
            _save(simulation.saved(error), folder, tell)
        raise
    finally:
        if simulation.failure is not None:
            _save(simulation.failure, folder, tell)


def _save(saved: SavedObservations, folder: Path | None, tell: Callable[[str], None]) -> None:
    if folder is None:
        return
    try:
        path = write_saved(saved, folder)
    except ConfigError as error:
        tell(f"not saved: {error}")
    else:
        tell(f"what was observed is in {path}; `tidegate simulate --resume-from {path}` replays it")
