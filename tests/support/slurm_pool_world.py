"""The actuators' contract on a pool of Slurm jobs, whose cluster and agents are pretended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from actuators.slurm.actuator import SlurmActuator
from actuators.slurm.client import SiteFacts
from actuators.slurm.fake import FakeSlurm
from actuators.slurm.job import JobSpec, JobState
from actuators.slurm.marks import Mark, mark_of_launch
from broker.model.agents import AgentEnd, AgentOrder, AgentPhase, AgentReport, EndCause
from broker.model.errors import ActionRejected, TransientError
from broker.model.plan import Launch
from broker.model.replica import ReplicaPhase
from broker.model.spec import PoolSpec
from broker.model.starts import StartPlace
from tests.support.actuator_worlds import SetClock, launch_of

POLL_S = 5.0
LOAD_S = 2.0
PLACE = StartPlace("gpu:h100", weights_cached=True)


@dataclass
class Engine:
    """What an agent would tell of the engine that a job runs."""

    mark: Mark
    exit_s: float
    told_at: float | None = None
    ended: bool = False


@dataclass
class FakeAgents:
    """The agents of all jobs that run: an engine answers ``LOAD_S`` after its job's start, and takes its own time to
    exit when it is told to. ``silent``: nobody reports."""

    clock: SetClock
    slurm: FakeSlurm
    engines: dict[str, Engine] = field(default_factory=dict)
    silent: bool = False

    def latest(self, action_id: str) -> AgentReport | None:
        engine = self.engines.get(action_id)
        job = next((job for job in self.slurm.everything() if job.name == action_id), None)
        if self.silent or engine is None or job is None or job.started_at is None:
            return None
        now, mark = self.clock.now(), engine.mark
        phase = AgentPhase.READY if now >= job.started_at + LOAD_S else AgentPhase.LOADING
        end = None
        if job.state is not JobState.RUNNING:
            phase, cause = AgentPhase.ENDED, EndCause.STOPPED if engine.told_at is not None else EndCause.CRASHED
            end = AgentEnd(cause, "the engine exited", job.exit_code)
        return AgentReport(
            "0" * 8, 1, now, mark.cluster, mark.model_id, mark.ordinal, mark.generation, phase, "n1",
            job_id=job.job_id, url=f"http://n1/{mark.replica_id}", end=end, start_place=PLACE,
        )  # fmt: skip

    def tell(self, action_id: str, order: AgentOrder) -> None:
        if order is AgentOrder.STOP and self.engines[action_id].told_at is None:
            self.engines[action_id].told_at = self.clock.now()

    def act(self) -> None:
        """Engines that were told to exit do so in their time; a job's batch script passes SIGTERM on."""
        jobs = {job.name: job for job in self.slurm.everything()}
        for job_id, _ in self.slurm.signals:
            name = next(name for name, job in jobs.items() if job.job_id == job_id)
            self.tell(name, AgentOrder.STOP)
        for name, engine in self.engines.items():
            due = engine.told_at is not None and self.clock.now() >= engine.told_at + engine.exit_s
            if due and not engine.ended and jobs[name].state is JobState.RUNNING:
                engine.ended = True
                self.slurm.finish(jobs[name].job_id)


class SlurmJobsWorld:
    """A ``SlurmActuator`` on a pretended cluster whose queue takes a second. ``log_ids`` and ``recorded`` are those of
    the next one that is made."""

    def __init__(self, *, silent: bool = False, accounting: bool = False) -> None:
        self.cluster = "test"
        self.log_ids: tuple[str, ...] = ()
        self.recorded: dict[str, ReplicaPhase] = {}
        self.clock = SetClock()
        self.slurm = FakeSlurm(self.clock.now, pending_s=1.0, accounting=accounting)
        self.agents = FakeAgents(self.clock, self.slurm, silent=silent)
        self.renew()

    def renew(self) -> None:
        self.actuator = self.make()

    def make(self, checkpoint: Callable[[str], None] = lambda name: None, *, acts: bool = True) -> SlurmActuator:
        return SlurmActuator(
            PoolSpec("pool", "slurm", gpus=2), self.slurm, self.agents, self.render,
            cluster=self.cluster, clock=self.clock, log_ids=self.log_ids, recorded=dict(self.recorded),
            poll_s=POLL_S, acts=acts, checkpoint=checkpoint,
        )  # fmt: skip

    def render(self, launch: Launch, facts: SiteFacts, now: float) -> JobSpec:
        command = launch.model.engine.command
        if not command:
            raise ActionRejected("cannot execute an engine without a command")
        mark = mark_of_launch(launch, *self.log_ids[:1])
        exit_s = float(command[command.index("--exit-s") + 1]) if "--exit-s" in command else 1.0
        self.agents.engines[mark.job_name] = Engine(mark, exit_s)
        return JobSpec(mark.job_name, mark.comment, "#!/bin/sh\n", "gpu", 3600.0, "/dev/null", "/")

    def bad_launch(self) -> Launch:
        return launch_of(self.cluster, engine=())

    def crash(self, replica_id: str) -> None:
        self.slurm.finish(self.job_id(replica_id), state=JobState.FAILED, exit_code=1)

    def job_id(self, replica_id: str) -> int:
        names = {engine.mark.replica_id: name for name, engine in self.agents.engines.items()}
        return next(job.job_id for job in self.slurm.everything() if job.name == names[replica_id])

    def break_listing(self) -> None:
        self.clock.at += POLL_S
        self.slurm.fail_next("jobs", TransientError("slurmctld does not answer"))

    def runs(self, replica_id: str) -> int:
        return sum(self.agents.engines[job.name].mark.replica_id == replica_id for job in self.slurm.submitted)

    async def pass_time(self) -> None:
        self.clock.at += 0.5
        self.agents.act()
