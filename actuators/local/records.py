"""What is kept on disk of each replica, so that a new broker finds what an old one started.

    ACTION.xxxx.intent   written by the broker before it spawns; its own file for every attempt
    ACTION.claim         the same file, completed with the process's identity and renamed by the process itself
                         (see ``launcher``): an action with a claim has had its one process
    ACTION.marks         what happened since: told to stop, ended
    forgotten/           claims of replicas that have left the listing; they still bar a second start

Claims never change; marks are replaced whole. A damaged claim still bars a second start, and its process is still
found by the environment it was started with.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from actuators.local.procfs import ProcessIdentity
from broker.model import wire
from broker.model.errors import WireError
from broker.model.replica import StopMode


@dataclass(frozen=True, slots=True)
class LocalRecord:
    """One replica as it was launched. ``gpu_ids`` are the devices it may see, empty if the pool names none."""

    action_id: str
    cluster: str
    pool_id: str
    replica_id: str
    model_id: str
    generation: int
    gpus: int
    gpu_ids: tuple[str, ...]
    host: str
    port: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as read; both parts are None if it is damaged."""

    record: LocalRecord | None
    process: ProcessIdentity | None


@dataclass(frozen=True, slots=True)
class Marks:
    """``stop_sent`` is the action id of the last stop whose signal was sent: the same order is not sent twice."""

    stop_mode: StopMode | None = None
    stop_sent: str = ""
    ended_at: float | None = None
    exit_code: int | None = None


class RecordStore:
    """One pool's directory. Every method raises ``OSError`` as it comes; the actuator knows what it means there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._forgotten = self.directory / "forgotten"

    @classmethod
    def of_pool(cls, state_dir: Path, pool_id: str) -> RecordStore:
        return cls(state_dir / quote(pool_id, safe=""))

    def prepare(self) -> None:
        """Make the directory, readable by this user alone, if it is not there."""
        self._forgotten.mkdir(mode=0o700, parents=True, exist_ok=True)

    def claim_path(self, action_id: str) -> Path:
        return self.directory / f"{_file_name(action_id)}.claim"

    def is_claimed(self, action_id: str) -> bool:
        path = self.claim_path(action_id)
        return path.exists() or (self._forgotten / path.name).exists()

    def write_intent(self, record: LocalRecord) -> Path:
        """Durable when this returns, so that a full or failing disk is found before anything is spawned."""
        return self._write_new(f"{_file_name(record.action_id)}.", ".intent", wire.dumps(record) + "\n")

    def claims(self) -> dict[str, Claim]:
        """All claims by action id."""
        return {
            _action_id(path): parse_claim(path.read_text(errors="replace"))
            for path in self.directory.iterdir()
            if path.suffix == ".claim"
        }

    def marks(self, action_id: str) -> Marks:
        """Nothing, if there are none or they cannot be made out: they are worth less than a listing."""
        try:
            text = self._marks_path(action_id).read_text(errors="replace")
            marks = wire.loads(Marks, text)
        except (FileNotFoundError, WireError):
            return Marks()
        assert isinstance(marks, Marks)
        return marks

    def write_marks(self, action_id: str, marks: Marks) -> None:
        path = self._marks_path(action_id)
        os.replace(self._write_new(path.name, ".new", wire.dumps(marks)), path)

    def forget(self, action_id: str, now: float) -> None:
        """Out of the listing; the claim goes on to bar a second start."""
        path = self.claim_path(action_id)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (now, now))
            path.rename(self._forgotten / path.name)
        self.discard_marks(action_id)

    def discard_marks(self, action_id: str) -> None:
        self._marks_path(action_id).unlink(missing_ok=True)

    def expire(self, before: float) -> list[str]:
        """Delete what was forgotten, or left lying by a broker that died, before then; the replicas it was about."""
        replicas = []
        for path in (*self._forgotten.iterdir(), *self.directory.iterdir()):
            if path.parent != self._forgotten and path.suffix not in (".intent", ".new"):
                continue
            if path.stat().st_mtime < before:
                record = parse_claim(path.read_text(errors="replace")).record
                path.unlink()
                if record is not None and path.suffix == ".claim":
                    replicas.append(record.replica_id)
        return replicas

    def _marks_path(self, action_id: str) -> Path:
        return self.directory / f"{_file_name(action_id)}.marks"

    def _write_new(self, prefix: str, suffix: str, text: str) -> Path:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=self.directory)
        try:
            with open(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.unlink(name)
            raise
        return Path(name)


def parse_record(text: str) -> LocalRecord | None:
    try:
        record = wire.loads(LocalRecord, text)
    except WireError:
        return None
    assert isinstance(record, LocalRecord)
    return record


def parse_claim(text: str) -> Claim:
    """The record's line, then ``boot pid start`` with its line end, without which the start may be cut short."""
    first, _, second = text.partition("\n")
    words = second.split()
    if not second.endswith("\n") or len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
        return Claim(parse_record(first), None)
    return Claim(parse_record(first), ProcessIdentity(words[0], int(words[1]), int(words[2])))


def _file_name(action_id: str) -> str:
    return quote(action_id, safe="")


def _action_id(path: Path) -> str:
    return unquote(path.stem)
