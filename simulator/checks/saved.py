"""What was observed around a violation, as a file that can be replayed.

The format is one line of JSON in the envelope of ``broker.model.wire`` (``tidegate.saved_observations/1``): the
broker's state at some step, every step since with what it had observed and decided, and what was wrong.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from broker.model import wire
from broker.model.errors import ConfigError, InvariantViolated, TidegateError, WireError
from broker.model.observation import Observation
from broker.model.ports import Checkpoint, StepRecord
from simulator.checks.world import World

PREFIX = "tidegate-violation-"
_LARGEST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class SavedObservations:
    """``problem`` is what was wrong in words, ``invariant`` its number in the architecture's list, None for an error in
    a step. ``steps`` are the last ones, in order, the first of them decided on ``start``'s state.

    ``world``: what was there at the last step, if it was held against that. ``pending``: what the step had observed
    that failed at ``now``, and so was not written. ``began_at``: the trace's second 0.
    """

    problem: str
    invariant: int | None
    now: float
    began_at: float
    start: Checkpoint
    steps: tuple[StepRecord, ...]
    world: World | None = None
    pending: tuple[Observation, ...] = ()


def words_of(error: BaseException) -> str:
    """An error as ``problem`` tells it: the type is said of those that are not our own."""
    if isinstance(error, TidegateError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def number_of(error: BaseException) -> int | None:
    return error.invariant if isinstance(error, InvariantViolated) else None


def write_saved(saved: SavedObservations, folder: Path) -> Path:
    """A new file in ``folder``, whole or not at all. Raises ``ConfigError`` if there can be none."""
    try:
        text = wire.dumps(saved)
    except WireError as error:
        raise ConfigError(f"the observations cannot be written down: {error}") from None
    number = saved.steps[-1].number if saved.steps else saved.start.number
    unfinished = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(prefix=PREFIX, suffix=".part", dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        path = _free_name(folder, f"{PREFIX}{_kind(saved)}-step{number}")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise ConfigError(f"the observations cannot be saved: {error.strerror or error}", path=str(folder)) from None
    return path


def _kind(saved: SavedObservations) -> str:
    if saved.invariant is not None:
        return f"invariant{saved.invariant}"
    return re.sub(r"[^a-z0-9]+", "-", saved.problem.partition(":")[0].lower())[:40].strip("-") or "error"


def _free_name(folder: Path, stem: str) -> Path:
    """Of the names ``stem``, ``stem-2`` and so on the first that nothing has."""
    path, count = folder / f"{stem}.json", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}.json"
    return path


def read_saved(path: Path) -> SavedObservations:
    """Raises ``ConfigError`` for what is no such file, cut off, damaged, or written by a newer Tidegate."""
    try:
        if not path.is_file():
            missing = "is not a file" if path.exists() else "no such file"
            raise ConfigError(f"{missing}; name what `tidegate simulate` saved at a violation", path=str(path))
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError("is larger than 1 GiB, and so no file of saved observations", path=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(_NO_SUCH, path=str(path)) from None
    try:
        saved: SavedObservations = wire.loads(SavedObservations, text)
    except WireError as error:
        newer = error.field == "schema" and "newer" in error.problem
        raise ConfigError(error.problem if newer else f"{_NO_SUCH}: {error}", path=str(path)) from None
    numbers = [saved.start.number, *(record.number for record in saved.steps)]
    gap = next((b for a, b in pairwise(numbers) if b != a + 1), None)
    if gap is not None:
        raise ConfigError(f"{_NO_SUCH}: a step is missing before step {gap}", path=str(path))
    return saved


_NO_SUCH = "is not a whole file of saved observations"
