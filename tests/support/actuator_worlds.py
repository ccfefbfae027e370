"""The worlds in which the actuators' contract is tried, and what tests of real processes share.

``LocalWorld`` ends every process that carries its cluster's name, and whatever runs in their sessions, when it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from actuators.base import Actuator
from actuators.fake import FakeActuator
from actuators.local import command, procfs
from actuators.local.actuator import LocalActuator
from broker.model.errors import ActionRejected
from broker.model.identity import action_id, endpoint_key, replica_name
from broker.model.plan import Launch, Stop
from broker.model.replica import ObservedReplica, ReplicaPhase, StopMode, Tier
from broker.model.spec import EngineSpec, JsonValue, ModelSpec, PolicySpec, PoolSpec
from simulator.cluster.host import ClusterHost
from simulator.cluster.jobs import JobRequest
from simulator.cluster.model import Arrival, SlurmModel
from simulator.cluster.pool import ReplicaJobs, SlurmPool
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition
from simulator.engine.profile import EngineProfile
from simulator.fleet import SimulatedReplica
from tests.support.simulated import SLOW_ENGINE

REPLICA_SERVER = Path(__file__).with_name("replica_server.py")
ENGINE = ("{python}", "-S", str(REPLICA_SERVER), "--host", "{host}", "--port", "{port}", "--model", "{model}")
PATIENCE_S = 20.0


def launch_of(
    cluster: str = "test",
    *,
    pool_id: str = "pool",
    ordinal: int = 0,
    generation: int = 1,
    gpus: int = 1,
    engine: tuple[str, ...] = ENGINE,
    environment: Mapping[str, str] | None = None,
) -> Launch:
    """The core's order to launch one replica of the model ``chat``."""
    spec = EngineSpec(command=engine, environment=environment or {})
    return Launch(
        action_id=action_id("launch", cluster, "chat", ordinal, generation),
        cluster=cluster,
        replica_id=replica_name("chat", ordinal, generation),
        model=ModelSpec("chat", spec, PolicySpec("threshold"), maximum=8, gpus=gpus),
        pool_id=pool_id,
        ordinal=ordinal,
        generation=generation,
        tier=Tier.BASELINE,
    )


def stop_of(launch: Launch, mode: StopMode = StopMode.GRACEFUL) -> Stop:
    """The core's order to end what ``launch`` began."""
    verb = "stop" if mode is StopMode.GRACEFUL else "kill"
    return Stop(
        action_id=action_id(verb, launch.cluster, "chat", launch.ordinal, launch.generation),
        cluster=launch.cluster,
        replica_id=launch.replica_id,
        model_id="chat",
        pool_id=launch.pool_id,
        generation=launch.generation,
        mode=mode,
    )


class ActuatorWorld(Protocol):
    """A pool with two GPUs whose replicas take a moment to start, and to exit when told to."""

    cluster: str

    @property
    def actuator(self) -> Actuator: ...

    def bad_launch(self) -> Launch:
        """A launch that can never work."""
        ...

    def renew(self) -> None:
        """Throw the actuator away, as a broker's death does, and make it anew."""
        ...

    def crash(self, replica_id: str) -> None: ...

    def break_listing(self) -> None:
        """The next listing fails."""
        ...

    def runs(self, replica_id: str) -> int:
        """How many engines this replica has ever had."""
        ...

    async def pass_time(self) -> None: ...


async def seen(world: ActuatorWorld, replica_id: str) -> ObservedReplica | None:
    """The replica in the present listing, which must be known."""
    snapshot = await world.actuator.observe()
    assert snapshot.known, snapshot.error
    found = [replica for replica in snapshot.replicas if replica.replica_id == replica_id]
    assert len(found) <= 1
    return found[0] if found else None


async def until(
    world: ActuatorWorld, replica_id: str, holds: Callable[[ObservedReplica | None], bool]
) -> ObservedReplica:
    """Let time pass until the listing's word on a replica is as wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        replica = await seen(world, replica_id)
        if replica is not None and holds(replica):
            return replica
        assert time.monotonic() < deadline, f"still {replica}"
        await world.pass_time()


async def until_phase(world: ActuatorWorld, replica_id: str, phase: ReplicaPhase) -> ObservedReplica:
    return await until(world, replica_id, lambda replica: replica is not None and replica.phase is phase)


async def until_listening(world: ActuatorWorld, replica_id: str) -> str:
    """Its confirmed URL."""
    replica = await until(world, replica_id, lambda replica: replica is not None and replica.url is not None)
    assert replica.url is not None
    return replica.url


@dataclass(slots=True)
class SetClock:
    """A clock that stands where it is put."""

    at: float = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep_until(self, when: float) -> None:
        self.at = max(self.at, when)


class FakeWorld:
    """A ``FakeActuator`` is the pool itself, so a new broker meets the same object again."""

    def __init__(self) -> None:
        self.cluster = "test"
        self.clock = SetClock()
        self._fake = FakeActuator("pool", gpus=2, now=self.clock.now, pending_s=1.0, start_s=2.0, exit_s=3.0)

    @property
    def actuator(self) -> FakeActuator:
        return self._fake

    def bad_launch(self) -> Launch:
        self._fake.fail_next_start(ActionRejected("cannot execute what was asked for"))
        return launch_of(self.cluster)

    def renew(self) -> None:
        """Nothing to do: see above."""

    def crash(self, replica_id: str) -> None:
        self._fake.crash(replica_id)

    def break_listing(self) -> None:
        self._fake.fail_next_observe()

    def runs(self, replica_id: str) -> int:
        return sum(launch.replica_id == replica_id for launch in self._fake.launched)

    async def pass_time(self) -> None:
        self.clock.at += 0.5


@dataclass
class FakeService:
    """Nobody sends requests to the replicas; notes those that end."""

    gone: list[SimulatedReplica] = field(default_factory=list)

    def leaves(self, replica: SimulatedReplica) -> bool:
        return False

    def ended(self, replica: SimulatedReplica) -> None:
        self.gone.append(replica)


class SlurmWorld:
    """A ``SlurmPool`` on a cluster of one node, whose queue takes a moment because another job is on the node."""

    def __init__(self) -> None:
        self.cluster = "test"
        self.clock = SetClock()
        began_at = self.clock.at
        first = Arrival(began_at, JobRequest("batch", "gpu", 1, 2, 1.0, 1.0))
        spec = ClusterSpec((NodeGroup("gpu", 1, 2),), (Partition("gpu"),))
        self.host = ClusterHost(
            SlurmModel(spec, starts_at=began_at, background=[first]), self.clock.now, lambda at, call: None
        )
        self.host.catch_up()
        self.ran: Counter[str] = Counter()
        self._pool = SlurmPool(
            PoolSpec("pool", "slurm", gpus=2), self._profile_of, FakeService(), self.clock.now,
            host=self.host, jobs=ReplicaJobs("gpu", limit_s=3600.0, exit_s=3.0),
        )  # fmt: skip

    @property
    def actuator(self) -> SlurmPool:
        return self._pool

    def _profile_of(self, launch: Launch) -> EngineProfile:
        self.ran[launch.replica_id] += 1
        return SLOW_ENGINE

    def bad_launch(self) -> Launch:
        return launch_of(self.cluster, gpus=3)

    def renew(self) -> None:
        """Nothing to do: as with the fake, the actuator is the pool itself."""

    def crash(self, replica_id: str) -> None:
        self._pool.end(self._pool.replicas[replica_id], exit_code=1)

    def break_listing(self) -> None:
        self.host.go_dark(self.clock.at + 0.1)

    def runs(self, replica_id: str) -> int:
        return self.ran[replica_id]

    async def pass_time(self) -> None:
        self.clock.at += 0.5


@dataclass
class LocalWorld:
    """A ``LocalActuator`` with a cluster of its own, in ``directory``."""

    directory: Path
    cluster: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    clock: SetClock = field(default_factory=SetClock)
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    log_limit_bytes: int = 2**20

    def __post_init__(self) -> None:
        self.renew()

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def pool_dir(self) -> Path:
        return self.state_dir / "pool"

    @property
    def log_dir(self) -> Path:
        return self.directory / "logs"

    def make(self, checkpoint: Callable[[str], None] = lambda name: None) -> LocalActuator:
        return LocalActuator(
            PoolSpec("pool", "local", gpus=2, options=self.options),
            self.state_dir,
            self.log_dir,
            endpoint_key=lambda replica_id, generation: endpoint_key(b"site", replica_id, generation),
            cluster=self.cluster,
            clock=self.clock,
            log_limit_bytes=self.log_limit_bytes,
            checkpoint=checkpoint,
        )

    def bad_launch(self) -> Launch:
        return launch_of(self.cluster, engine=("/nonexistent/vllm", "serve"))

    def renew(self) -> None:
        self.actuator = self.make()

    def crash(self, replica_id: str) -> None:
        for process in self.processes():
            if procfs.environment(process.pid).get(command.REPLICA_ID) == replica_id:
                assert procfs.send_signal(process.identity, signal.SIGKILL)

    def break_listing(self) -> None:
        """A file where the records' directory should be. (Permissions would not stop a test that runs as root.)"""
        self.state_dir.mkdir(exist_ok=True)
        if self.pool_dir.exists():
            self.pool_dir.rename(self.directory / "moved")
        self.pool_dir.write_text("")

    def runs(self, replica_id: str) -> int:
        return self.log_text(replica_id).count("engine runs\n")

    def log_text(self, replica_id: str) -> str:
        path = self.log_dir / f"{replica_id}.log"
        return path.read_text() if path.exists() else ""

    async def pass_time(self) -> None:
        await asyncio.sleep(0.02)

    def processes(self) -> list[procfs.Process]:
        """Living processes that carry this cluster's name, or share a session with one that does."""
        boot = procfs.boot_id()
        found = []
        for members in procfs.sessions().values():
            if any(procfs.environment(pid).get(command.CLUSTER) == self.cluster for pid in members):
                found += [process for pid in members if (process := procfs.read_process(pid, boot)) is not None]
        return [process for process in found if not process.ended]

    def end(self) -> None:
        """Kill what is left, and take the exit status of those that are our own children."""
        deadline = time.monotonic() + PATIENCE_S
        while left := self.processes():
            assert time.monotonic() < deadline, f"cannot end {left}"
            for process in left:
                procfs.send_signal(process.identity, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, 0)
