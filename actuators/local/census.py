"""Which replicas there are on this machine, and which of its processes are provably theirs.

Three sources are joined by action id, in this order of trust: claims on disk, what this broker has spawned or seen
before, and the environments of living processes. A process belongs to a replica if its (boot, pid, start time) is in
the claim, which it wrote itself; if it carries the replica's identity and our folder of records in its environment;
or if it was seen in the replica's session while that session's first process was there. Nothing else is ever listed or
signalled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from actuators.local import command, procfs
from actuators.local.procfs import Process, ProcessIdentity
from actuators.local.records import LocalRecord, Marks, RecordStore, parse_record
from broker.model.errors import ConfigError
from broker.model.ports import Clock

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One replica, by record and as the machine has it. ``main`` is None once its process has ended; ``others`` are
    further living processes that are provably its."""

    record: LocalRecord
    main: Process | None
    others: tuple[Process, ...]
    marks: Marks

    @property
    def alive(self) -> bool:
        """Whether any of it still holds GPUs and ports."""
        return self.main is not None or bool(self.others)


class Census:
    """Looks, and remembers what a look cannot show. Not safe for threads; its owner holds a lock. Raises ``OSError``
    when the records or ``/proc`` cannot be read."""

    def __init__(self, store: RecordStore, *, cluster: str, pool_id: str, clock: Clock) -> None:
        self._store = store
        self._cluster = cluster
        self._pool_id = pool_id
        self._clock = clock
        self._known: dict[str, tuple[LocalRecord, ProcessIdentity]] = {}
        self._marks: dict[str, Marks] = {}
        self._members: dict[str, set[ProcessIdentity]] = {}

    def add(self, record: LocalRecord, pid: int) -> None:
        """A child was spawned just now: it is known before it has claimed its action, and if it never does."""
        process = procfs.read_process(pid, procfs.boot_id())
        if process is not None:  # where SIGCHLD is ignored, not even a zombie may be left of a launcher that failed
            self._known[record.action_id] = (record, process.identity)

    def mark(self, action_id: str, marks: Marks) -> None:
        """Remember, on disk if it can be: a full disk must not keep a replica from being stopped."""
        self._marks[action_id] = marks
        try:
            self._store.write_marks(action_id, marks)
        except OSError as error:
            log.warning("marks_not_written", action_id=action_id, error=str(error))

    def discard_marks(self, action_id: str) -> None:
        """An earlier attempt at this action died before it could claim it: what was said of that is void."""
        self._marks.pop(action_id, None)
        self._store.discard_marks(action_id)

    def forget(self, action_id: str) -> None:
        self._store.forget(action_id, self._clock.now())
        for memory in (self._known, self._marks, self._members):
            memory.pop(action_id, None)

    def look(self) -> dict[str, Sighting]:
        """Everything that is or was ours and is not forgotten, by action id."""
        self._store.prepare()
        boot = procfs.boot_id()
        sessions = procfs.sessions()
        claims = self._store.claims()
        carriers = self._carriers(sessions, boot)
        sightings = {}
        for action_id in sorted({*claims, *carriers, *self._known}):
            claim, carrying = claims.get(action_id), carriers.get(action_id, [])
            record = claim.record if claim is not None else None
            identity = claim.process if claim is not None else None
            if action_id in self._known:
                known_record, known_identity = self._known[action_id]
                record, identity = record or known_record, identity or known_identity
            if carrying:
                first, carried = min(carrying, key=lambda pair: pair[0].identity.start_ticks)
                record, identity = record or carried, identity or first.identity
            if record is None or identity is None:
                log.warning("claim_damaged", action_id=action_id, path=str(self._store.claim_path(action_id)))
                self.forget(action_id)
                continue
            self._known[action_id] = (record, identity)
            candidates = [process for process, _ in carrying]
            sightings[action_id] = self._sight(record, identity, boot, candidates, sessions.get(identity.pid, []))
        return sightings

    def _carriers(self, sessions: dict[int, list[int]], boot: str) -> dict[str, list[tuple[Process, LocalRecord]]]:
        """Living first processes of sessions that carry the identity of one of our replicas in their environment."""
        carriers: dict[str, list[tuple[Process, LocalRecord]]] = {}
        for process, record, records in _replicas(sessions, boot, self._cluster, self._pool_id):
            if records == str(self._store.directory):
                carriers.setdefault(record.action_id, []).append((process, record))
        return carriers

    def _sight(
        self, record: LocalRecord, identity: ProcessIdentity, boot: str, carriers: list[Process], session: list[int]
    ) -> Sighting:
        first = procfs.read_process(identity.pid, boot)
        if first is not None and first.identity != identity:
            first = None  # the pid has come back as somebody else
        members = self._session_members(record, identity, session, ours=first is not None)
        others = {process.identity: process for process in (*carriers, *members) if process.identity != identity}
        main, exit_code = first, None
        if first is not None and first.ended:
            main, exit_code = None, _reap(first)
        marks = self._marks_of(record.action_id)
        if main is None and marks.ended_at is None:
            marks = replace(marks, ended_at=self._clock.now(), exit_code=exit_code)
            self.mark(record.action_id, marks)
            log.info("replica_ended", replica_id=record.replica_id, action_id=record.action_id, exit_code=exit_code)
        return Sighting(record, main, tuple(others.values()), marks)

    def _session_members(
        self, record: LocalRecord, identity: ProcessIdentity, session: list[int], *, ours: bool
    ) -> list[Process]:
        """The living processes of the replica's session. While its first process is there, if only as a zombie, all
        of it is ours; afterwards the number may come back as a stranger's session, so only what was seen then or
        carries the identity."""
        seen = self._members.setdefault(record.action_id, set())
        found = []
        for pid in session:
            process = procfs.read_process(pid, identity.boot_id)
            if process is None or process.ended or process.session != identity.pid:
                continue
            if ours:
                seen.add(process.identity)
            if process.identity in seen or procfs.environment(pid).get(command.ACTION_ID) == record.action_id:
                found.append(process)
        return found

    def _marks_of(self, action_id: str) -> Marks:
        if action_id not in self._marks:
            self._marks[action_id] = self._store.marks(action_id)
        return self._marks[action_id]


def require_own_records(cluster: str, pool_id: str, state_dir: Path) -> None:
    """Raises ``ConfigError`` if replicas of this cluster's pool run here under the records of another folder: another
    broker's, which would be told apart but want the same GPUs, or this site's own from before the setting was changed.
    Those whose claims have moved here with their folder are ours. ``OSError`` if our records cannot be read.
    """
    store = RecordStore.of_pool(state_dir, pool_id)
    store.prepare()
    claimed = {claim.process for claim in store.claims().values()}
    for process, record, records in _replicas(procfs.sessions(), procfs.boot_id(), cluster, pool_id):
        if records != str(store.directory) and process.identity not in claimed:
            raise ConfigError(
                f"{record.replica_id} (process {process.pid}) of cluster {cluster} and pool {pool_id} runs on this "
                f"machine, and its record is in {records}: if another broker started it, give this site another "
                f"cluster or pool name; if this one did, set state_dir back to {Path(records).parent}",
                field=f"pools.{pool_id}.state_dir",
            )


def _replicas(
    sessions: dict[int, list[int]], boot: str, cluster: str, pool_id: str
) -> Iterator[tuple[Process, LocalRecord, str]]:
    """Living first processes of sessions that say that they are replicas of this pool, and where their records are."""
    for session, members in sessions.items():
        if session not in members:
            continue
        environ = procfs.environment(session)
        if environ.get(command.CLUSTER) != cluster:
            continue
        record = parse_record(environ.get(command.RECORD, ""))
        process = procfs.read_process(session, boot)
        if record is not None and process is not None and record.pool_id == pool_id and not process.ended:
            yield process, record, environ.get(command.RECORDS, "")


def _reap(zombie: Process) -> int | None:
    """The exit code of our own child; None for one that another broker started, which init has reaped or will."""
    if zombie.parent != os.getpid():
        return None
    try:
        pid, status = os.waitpid(zombie.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None
