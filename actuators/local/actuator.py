"""A pool of processes on this machine that outlive the broker and are found again by what they are.

Each replica is a session of its own: no terminal, no pipe to the broker, its log a file. It claims its action on disk
before it becomes the engine (see ``launcher`` and ``records``) and carries its identity in its environment, so a new
broker finds it by (boot, pid, start time) or, if files were lost, by that environment. Under systemd the broker's unit
needs ``KillMode=process``: the default ends every replica with the broker.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from actuators.local import command, logs, ports, procfs
from actuators.local.census import Census, Sighting
from actuators.local.records import LocalRecord, RecordStore
from broker.model.errors import ActionRejected, CapacityUnavailable, ConfigError, TransientError
from broker.model.observation import Outcome, PoolSnapshot, Receipt
from broker.model.plan import Launch, Stop
from broker.model.ports import Clock
from broker.model.replica import ObservedReplica, ReplicaPhase, StopMode
from broker.model.spec import PoolSpec

LAUNCHER = Path(__file__).with_name("launcher.py")
FORGET_AFTER_S = 3600.0
EXPIRE_AFTER_S = 7 * 86400.0
SWEEP_EVERY_S = 3600.0
DEFAULT_LOG_LIMIT_BYTES = 16 * 2**20

log = structlog.get_logger(__name__)


class LocalActuator:
    """An ``Actuator`` over this machine's processes.

    ``pool.options`` may have ``gpu_ids`` (devices to hand out as ``CUDA_VISIBLE_DEVICES``, as many as ``pool.gpus``)
    and ``ports`` (``[first, last]``; otherwise the kernel chooses). ``host`` is an address or name of this machine,
    where engines listen and are called. ``checkpoint`` is called with the name of each point between two effects
    that a crash could part (``intent_written``, ``spawned``, ``stop_marked``, ``stop_sent``): fault tests die there,
    which nothing outside could time.
    """

    def __init__(
        self,
        pool: PoolSpec,
        state_dir: Path,
        log_dir: Path,
        *,
        endpoint_key: Callable[[str, int], str],
        cluster: str,
        clock: Clock,
        host: str = "127.0.0.1",
        log_limit_bytes: int = DEFAULT_LOG_LIMIT_BYTES,
        checkpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._pool = pool
        self._gpu_ids = _gpu_ids(pool)
        self._ports = _port_range(pool)
        self._store = RecordStore.of_pool(state_dir, pool.pool_id)
        self._log_dir = log_dir
        self._endpoint_key = endpoint_key
        self._cluster = cluster
        self._clock = clock
        self._host = host
        self._addresses = _addresses(host)
        self._log_limit_bytes = log_limit_bytes
        self._checkpoint = checkpoint
        # A thread goes on when its awaiting task is cancelled, so the lock must be the threads', not the loop's.
        self._lock = threading.Lock()
        self._census = Census(self._store, cluster=cluster, pool_id=pool.pool_id, clock=clock)
        self._next_sweep_at = 0.0

    @property
    def pool_id(self) -> str:
        return self._pool.pool_id

    async def observe(self) -> PoolSnapshot:
        return await asyncio.to_thread(self._observe)

    async def start(self, launch: Launch) -> Receipt:
        return await asyncio.to_thread(self._start, launch)

    async def stop(self, order: Stop) -> Receipt:
        return await asyncio.to_thread(self._stop, order)

    async def close(self) -> None:
        """Nothing is held open: the replicas are their own."""

    def read_log(self, replica_id: str, tail_lines: int = 100) -> list[str]:
        """The last lines that the replica wrote, oldest first."""
        return logs.read_log(self._log_dir, replica_id, tail_lines)

    # Starting

    def _start(self, launch: Launch) -> Receipt:
        self._check_addressed(launch.cluster, launch.pool_id, launch.replica_id)
        with self._lock:
            try:
                self._log_dir.mkdir(parents=True, exist_ok=True)
                sightings = self._census.look()
                if launch.action_id in sightings or self._store.is_claimed(launch.action_id):
                    return self._accepted(launch.action_id, launch.replica_id, launch.model.model_id, "already started")
                self._spawn(launch, self._place(launch, sightings.values()))
            except OSError as error:
                raise TransientError(
                    f"cannot start {launch.replica_id} on this machine: {error}; it will be tried again",
                    retry_after_s=2.0,
                ) from error
        return self._accepted(launch.action_id, launch.replica_id, launch.model.model_id)

    def _place(self, launch: Launch, sightings: Iterable[Sighting]) -> LocalRecord:
        """Give the replica its GPUs and its port. Raises ``CapacityUnavailable``."""
        holding = [sighting.record for sighting in sightings if sighting.alive]
        wanted = launch.model.gpus
        free = self._pool.gpus - sum(record.gpus for record in holding)
        if wanted > free:
            raise CapacityUnavailable(
                f"pool {self.pool_id} has {free} of {self._pool.gpus} GPUs free; {launch.replica_id} needs {wanted}"
            )
        taken = {device for record in holding for device in record.gpu_ids}
        return LocalRecord(
            action_id=launch.action_id,
            cluster=launch.cluster,
            pool_id=launch.pool_id,
            replica_id=launch.replica_id,
            model_id=launch.model.model_id,
            generation=launch.generation,
            gpus=wanted,
            gpu_ids=tuple(device for device in self._gpu_ids if device not in taken)[:wanted],
            host=self._host,
            port=ports.choose_port(self._host, {record.port for record in holding}, self._ports),
            created_at=self._clock.now(),
        )

    def _spawn(self, launch: Launch, record: LocalRecord) -> None:
        engine = launch.model.engine
        key = self._endpoint_key(record.replica_id, record.generation)
        environ = command.environment(os.environ, engine, record, self._store.directory, key)
        arguments = command.arguments(engine, record)
        program = command.executable(arguments, environ)
        self._census.discard_marks(record.action_id)
        intent = self._store.write_intent(record)
        try:
            self._checkpoint("intent_written")
            launcher = [sys.executable, "-I", "-S", str(LAUNCHER)]
            claim = str(self._store.claim_path(record.action_id))
            pid = self._spawn_session([*launcher, str(intent), claim, program, *arguments], environ, record)
        except BaseException:
            intent.unlink(missing_ok=True)
            raise
        self._checkpoint("spawned")
        self._census.add(record, pid)
        log.info("replica_spawned", replica_id=record.replica_id, action_id=record.action_id, pid=pid, port=record.port)

    def _spawn_session(self, arguments: list[str], environ: dict[str, str], record: LocalRecord) -> int:
        """posix_spawn rather than ``Popen``: a handle that warns of a living child when it is let go would be wrong
        for children that are meant to outlive us."""
        output = os.open(
            logs.log_path(self._log_dir, record.replica_id),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        try:
            return os.posix_spawn(
                arguments[0],
                arguments,
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD],
            )
        except ValueError as error:
            raise ActionRejected(f"the engine's command or environment cannot be passed on: {error}") from error
        except OSError as error:
            if error.errno in (errno.E2BIG, errno.EACCES, errno.ENOEXEC):
                raise ActionRejected(f"the engine's command cannot be executed: {error}") from error
            raise
        finally:
            os.close(output)

    # Stopping

    def _stop(self, order: Stop) -> Receipt:
        self._check_addressed(order.cluster, order.pool_id, order.replica_id)
        with self._lock:
            try:
                words = self._end(order)
            except OSError as error:
                raise TransientError(f"cannot stop {order.replica_id}: {error}") from error
        return self._accepted(order.action_id, order.replica_id, order.model_id, words)

    def _end(self, order: Stop) -> str:
        """Signal what the order names; words for the receipt."""
        sighting = next(
            (
                seen
                for seen in self._census.look().values()
                if seen.record.replica_id == order.replica_id and seen.record.generation == order.generation
            ),
            None,
        )
        if sighting is None or sighting.main is None:
            return "already gone"
        marks = sighting.marks
        if order.mode is StopMode.GRACEFUL and (marks.stop_sent == order.action_id or marks.stop_mode is StopMode.KILL):
            return "already told"
        action_id = sighting.record.action_id
        # Marked first, so that an exit after the signal never looks like one against our will.
        self._census.mark(action_id, replace(marks, stop_mode=order.mode))
        self._checkpoint("stop_marked")
        try:
            if order.mode is StopMode.KILL:
                for process in (sighting.main, *sighting.others):
                    procfs.send_signal(process.identity, signal.SIGKILL)
            else:
                # The main process alone: vLLM's drains on SIGTERM (--shutdown-timeout) and then ends its engine
                # cores, which would drop their requests at once if the signal reached them too.
                procfs.send_signal(sighting.main.identity, signal.SIGTERM)
        except PermissionError as error:
            raise ActionRejected(f"{order.replica_id} runs as a user whom this one may not signal: {error}") from error
        self._checkpoint("stop_sent")
        self._census.mark(action_id, replace(marks, stop_mode=order.mode, stop_sent=order.action_id))
        log.info("replica_told_to_exit", replica_id=order.replica_id, action_id=order.action_id, mode=order.mode.value)
        return ""

    # Observing

    def _observe(self) -> PoolSnapshot:
        now = self._clock.now()
        with self._lock:
            try:
                sightings = self._census.look()
                self._keep_house(sightings, now)
                replicas = self._listing(sightings.values())
            except OSError as error:
                words = f"cannot list the processes of pool {self.pool_id}: {error}"
                return PoolSnapshot(self.pool_id, now, now, known=False, error=words)
        return PoolSnapshot(self.pool_id, now, now, known=True, replicas=replicas, gpus_total=self._pool.gpus)

    def _listing(self, sightings: Iterable[Sighting]) -> tuple[ObservedReplica, ...]:
        ordered = sorted(sightings, key=lambda seen: (seen.record.created_at, seen.record.replica_id))
        listeners = procfs.listeners() if any(sighting.main is not None for sighting in ordered) else []
        return tuple(self._observed(sighting, listeners) for sighting in ordered)

    def _observed(self, sighting: Sighting, listeners: list[procfs.Listener]) -> ObservedReplica:
        record, marks = sighting.record, sighting.marks
        url, detail = None, ""
        if sighting.main is not None:
            phase = ReplicaPhase.STOPPING if marks.stop_mode is not None else ReplicaPhase.STARTING
            url, detail = self._confirmed_url(sighting, listeners)
        elif marks.stop_mode is not None:
            phase = ReplicaPhase.GONE
        else:
            # Whatever the code: vLLM exits 0 after its engine core crashed.
            phase = ReplicaPhase.FAILED
            detail = _exit_words(marks.exit_code) + f"; see {logs.log_path(self._log_dir, record.replica_id)}"
        return ObservedReplica(
            record.replica_id,
            record.model_id,
            record.generation,
            phase,
            url=url,
            started_at=record.created_at,
            exit_code=marks.exit_code,
            detail=detail,
            runs_as="" if sighting.main is None else f"process {sighting.main.pid}",
        )

    def _confirmed_url(self, sighting: Sighting, listeners: list[procfs.Listener]) -> tuple[str | None, str]:
        """The URL once everyone who listens there is the replica. vLLM sets SO_REUSEPORT, with which a stranger can
        share the port and get a part of its connections."""
        record = sighting.record
        inodes = {
            listener.inode
            for listener in listeners
            if listener.port == record.port and (listener.address in self._addresses or not any(listener.address))
        }
        if not inodes:
            return None, ""
        for process in (sighting.main, *sighting.others):
            if process is not None and inodes:
                inodes = inodes.difference(procfs.sockets_of(process.pid))
        if inodes:
            return None, f"another process listens on its port {record.port}"
        host = f"[{record.host}]" if ":" in record.host else record.host
        return f"http://{host}:{record.port}", ""

    # Keeping house

    def _keep_house(self, sightings: dict[str, Sighting], now: float) -> None:
        """What fails here is tried again at the next look, and must not make the listing unknown."""
        try:
            self._end_leftovers(sightings.values())
            self._trim_logs(sightings.values())
            self._forget(sightings, now)
        except OSError as error:
            log.warning("housekeeping_failed", pool_id=self.pool_id, error=str(error))

    def _end_leftovers(self, sightings: Iterable[Sighting]) -> None:
        """What outlives a replica's main process only holds GPU memory (an engine core whose server was killed)."""
        for sighting in sightings:
            if sighting.main is None:
                for process in sighting.others:
                    procfs.send_signal(process.identity, signal.SIGKILL)
                    log.warning("leftover_killed", replica_id=sighting.record.replica_id, pid=process.pid)

    def _trim_logs(self, sightings: Iterable[Sighting]) -> None:
        for sighting in sightings:
            if sighting.main is not None and logs.trim(
                logs.log_path(self._log_dir, sighting.record.replica_id), self._log_limit_bytes
            ):
                log.info("replica_log_trimmed", replica_id=sighting.record.replica_id)

    def _forget(self, sightings: dict[str, Sighting], now: float) -> None:
        """Let ended replicas leave the listing after an hour, and their claims and logs the disk after a week."""
        for action_id, sighting in list(sightings.items()):
            ended_at = sighting.marks.ended_at
            if ended_at is not None and not sighting.alive and ended_at + FORGET_AFTER_S < now:
                self._census.forget(action_id)
                del sightings[action_id]
        if now >= self._next_sweep_at:
            self._next_sweep_at = now + SWEEP_EVERY_S
            for replica_id in self._store.expire(now - EXPIRE_AFTER_S):
                logs.delete(self._log_dir, replica_id)

    def _check_addressed(self, cluster: str, pool_id: str, replica_id: str) -> None:
        if (cluster, pool_id) != (self._cluster, self.pool_id):
            raise ActionRejected(
                f"{replica_id} is meant for pool {pool_id} of cluster {cluster}; "
                f"this is pool {self.pool_id} of cluster {self._cluster}"
            )

    def _accepted(self, action_id: str, replica_id: str, model_id: str, detail: str = "") -> Receipt:
        now = self._clock.now()
        return Receipt(
            action_id, replica_id, model_id, Outcome.ACCEPTED, observed_at=now, received_at=now, detail=detail
        )


def _exit_words(exit_code: int | None) -> str:
    if exit_code is None:
        return "it ended by itself, with a code that is not known"
    if exit_code < 0:
        return f"it was ended by signal {-exit_code} ({signal.strsignal(-exit_code)}), which we did not send"
    return f"it exited by itself with code {exit_code}"


def _gpu_ids(pool: PoolSpec) -> tuple[str, ...]:
    declared = pool.options.get("gpu_ids", [])
    if not isinstance(declared, list) or not all(isinstance(device, int | str) for device in declared):
        raise ConfigError(
            f"{declared!r} is not a list of devices such as [0, 1]", field=f"pools.{pool.pool_id}.gpu_ids"
        )
    if declared and len(declared) != pool.gpus:
        raise ConfigError(
            f"{len(declared)} devices for {pool.gpus} GPUs; name each one", field=f"pools.{pool.pool_id}.gpu_ids"
        )
    return tuple(str(device) for device in declared)


def _port_range(pool: PoolSpec) -> range | None:
    declared = pool.options.get("ports")
    match declared:
        case None:
            return None
        case [int(first), int(last)] if 0 < first <= last < 65536:
            return range(first, last + 1)
    raise ConfigError(f"{declared!r} is not [first, last] between 1 and 65535", field=f"pools.{pool.pool_id}.ports")


def _addresses(host: str) -> frozenset[bytes]:
    """The packed addresses that a connection to ``host`` may reach."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ConfigError(f"{host!r} is not an address or name of this machine: {error}", field="host") from error
    packed = {socket.inet_pton(family, str(address[0]).partition("%")[0]) for family, *_, address in found}
    mapped = {b"\0" * 10 + b"\xff\xff" + address for address in packed if len(address) == 4}
    return frozenset(packed | mapped)
