"""A live broker and gateway whose replicas are jobs of a real Slurm, beside jobs of others that nobody may touch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from broker.model.identity import action_id
from simulator.report.summary import Outcome
from tests.faults.cluster import ENDED, MODEL_ID, Cluster, brought_up, load
from tests.faults.conftest import Note
from tests.faults.slurm.daemons import Daemons
from tests.support.real_slurm import RealSlurm
from tests.support.slurm_stack import cancel_jobs, slurm_environment, slurm_site
from tests.support.waiting import until, until_answered

PARTITIONS = [
    "PartitionName=gpu Nodes=ALL Default=YES MaxTime=120 PriorityTier=1 PreemptMode=CANCEL GraceTime=20",
    "PartitionName=urgent Nodes=ALL MaxTime=120 PriorityTier=10 PreemptMode=OFF",
]
OPTIONS = [
    "PreemptType=preempt/partition_prio",
    "PreemptMode=CANCEL",
    "JobRequeue=1",
]
OTHERS_NODE = "n3"
"""Full of others' jobs: what is done to a node of ours is done to n1 or n2."""
ALIKE = "tidegate: cluster=other pool=shared model=chat ordinal=0 generation=1 gpus=1"
_FIELDS = ("%i", "%j", "%u", "%T", "%N", "%k")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Job:
    job_id: int
    name: str
    user: str
    state: str
    node: str
    comment: str


@dataclass(frozen=True)
class Slurm:
    """The module's cluster, hands on its daemons, and the jobs of others in it."""

    real: RealSlurm
    daemons: Daemons
    others: tuple[Job, ...]

    def jobs(self, states: str = "all") -> list[Job]:
        separator = "\x1f"
        told = self.real.command("squeue", "-h", "-t", states, "-o", separator.join(_FIELDS)).splitlines()
        rows = [line.split(separator) for line in told]
        return [Job(int(row[0]), *row[1:]) for row in rows]


@contextlib.contextmanager
def a_slurm() -> Iterator[Slurm]:
    """Three nodes with two GPUs each, slurmrestd, and others' jobs on the third node."""
    real = RealSlurm(3, PARTITIONS, OPTIONS, rest=True, gpus_per_node=2)
    with contextlib.closing(Daemons(real)) as daemons, real:
        names = {
            "alike": submit(real, "alike", "--comment", ALIKE),
            "plain": submit(real, "plain", "--cpus-per-task", "2"),
            "nobodys": submit(real, "nobodys", "--comment", ALIKE, user="nobody"),
        }
        slurm = Slurm(real, daemons, ())
        running = until(lambda: _all_running(slurm, set(names.values())), "the others' jobs run")
        yield Slurm(real, daemons, running)


def submit(real: RealSlurm, name: str, *options: str, user: str | None = None) -> int:
    """A job of somebody else's that sleeps on the others' node, or where ``options`` say."""
    words = ["sbatch", "--parsable", "--job-name", name, "--partition", "urgent", "--nodelist", OTHERS_NODE,
             "--output", "/dev/null", "--chdir", "/tmp", *options, "--wrap", "sleep 7000"]  # fmt: skip
    done = subprocess.run(
        words, env=real.environment, capture_output=True, text=True, timeout=30, check=True, user=user,
        group="nogroup" if user else None, extra_groups=[] if user else None, cwd="/",
    )  # fmt: skip
    return int(done.stdout)


def _all_running(slurm: Slurm, wanted: set[int]) -> tuple[Job, ...]:
    found = tuple(job for job in slurm.jobs() if job.job_id in wanted and job.state == "RUNNING")
    return found if len(found) == len(wanted) else ()


class SlurmCluster(Cluster):
    """Whose replicas are jobs."""

    def __init__(self, slurm: Slurm, folder: Path, *, site: str, policies: str | None) -> None:
        bin_folder = folder / "bin"
        environment = slurm_environment(slurm.real) | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
        super().__init__(folder, site=site, policies=policies, environment=environment)
        self.slurm = slurm
        self.bin = bin_folder
        self.directory = folder / "jobs"

    @property
    def name(self) -> str:
        return self.stack.cluster

    def our_jobs(self, states: str = "PD,R,S,CF,CG") -> list[Job]:
        return [job for job in self.slurm.jobs(states) if f" cluster={self.name} " in job.comment]

    async def command(self, *words: str) -> str:
        return await asyncio.to_thread(self.slurm.real.command, *words)

    async def a_victim(self) -> tuple[str, Job]:
        """The name and job of the first replica that serves."""
        ready = [replica for replica in await self.replicas() if replica["phase"] == "ready"]
        by_name = {job.name: job for job in await asyncio.to_thread(self.our_jobs)}
        return ready[0]["replica_id"], by_name[self._action_of(ready[0])]

    async def has_ended(self, replica_id: str, timeout_s: float = 40.0) -> dict[str, Any]:
        """Its record, once it is over."""

        def over(replicas: list[dict[str, Any]]) -> dict[str, Any] | None:
            return next((r for r in replicas if r["replica_id"] == replica_id and r["phase"] in ENDED), None)

        found: dict[str, Any] = await self.until(over, timeout_s)
        return found

    def processes(self) -> Counter[str]:
        """Living engines by the name of the job that they were started in, of which Slurm may know no more."""
        return Counter(name for _, name in self._engines())

    def engine_of(self, job: Job) -> psutil.Process:
        return next(engine for engine, name in self._engines() if name == job.name)

    def _engines(self) -> Iterator[tuple[psutil.Process, str]]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                ours = process.cwd() == str(self.directory) and process.status() != psutil.STATUS_ZOMBIE
                if ours and process.cmdline()[1:3] == ["-m", "simulator.emulator"]:
                    yield process, process.environ()["SLURM_JOB_NAME"]

    async def no_orphan_no_double(self) -> None:
        """Each living record has one job and one engine and there are no others; no action ever had two jobs; the
        jobs of others are as they were."""

        async def alive() -> tuple[Counter[str], Counter[str], Counter[str]]:
            records = Counter(self._action_of(r) for r in await self.replicas() if r["phase"] not in ENDED)
            jobs = Counter(job.name for job in await asyncio.to_thread(self.our_jobs))
            return records, jobs, await asyncio.to_thread(self.processes)

        def agree(found: tuple[Counter[str], ...]) -> bool:
            return found[0] == found[1] == found[2]

        await until_answered(alive, agree, "records, jobs and engines are the same", 15.0)
        ever = await asyncio.to_thread(self.our_jobs, "all")
        doubles = {name: count for name, count in Counter(job.name for job in ever).items() if count > 1}
        assert not doubles, f"submitted more than once: {doubles}"
        others = {job.job_id: job for job in await asyncio.to_thread(self.slurm.jobs)}
        assert [others.get(job.job_id) for job in self.slurm.others] == list(self.slurm.others), "a foreign job changed"

    def _action_of(self, replica: dict[str, Any]) -> str:
        return action_id("launch", self.name, MODEL_ID, replica["ordinal"], replica["generation"])

    def no_traceback(self) -> None:
        super().no_traceback()
        for path in self.directory.glob("*.out"):
            assert "Traceback" not in path.read_text(errors="replace"), path

    def told(self, event: str, words: str) -> list[dict[str, Any]]:
        """The lines of the broker's log with that event that say so."""
        return [row for row in self.logged(event) if words in json.dumps(row, ensure_ascii=False)]

    async def hears(self, event: str, words: str, timeout_s: float = 40.0) -> None:
        """Until the broker's log has such a line."""
        deadline = time.monotonic() + timeout_s
        while not self.told(event, words):
            assert time.monotonic() < deadline, f"no {event} with {words!r}\n{self.stack.log_tail('broker')}"
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def slurm_cluster(
    slurm: Slurm, folder: Path, *, policies: str | None = None, ready: int = 2, **site: Any
) -> AsyncIterator[SlurmCluster]:
    """A running cluster with ``ready`` replicas. On exit its processes and jobs are ended. ``site``: of
    ``slurm_site``."""
    name = f"faults-{os.getpid()}-{next(_numbers)}"
    (folder / "jobs").mkdir(exist_ok=True)
    made = SlurmCluster(
        slurm, folder, site=slurm_site(slurm.real, name, directory=folder / "jobs", **site), policies=policies
    )
    try:
        async with brought_up(made, ready=0):
            if ready:
                await made.scale(ready)
                await made.settled(ready, 60.0)
            yield made
    finally:
        await asyncio.to_thread(cancel_jobs, slurm.real, name)


@contextlib.asynccontextmanager
async def survived(
    opened: contextlib.AbstractAsyncContextManager[SlurmCluster], event: str, words: str, note: Note, *,
    cuts: bool = False,
) -> AsyncIterator[SlurmCluster]:  # fmt: skip
    """Streams run while the block does its damage to two replicas. After it there are two again, without orphan or
    double or a touched foreign job; the broker's log has a line ``event`` with ``words``; no stream was cut (``cuts``:
    no more happened to any)."""
    async with opened as running, load(running) as streams:
        began = time.monotonic()
        yield running
        await running.settled(2, 90.0)
        note(f"{time.monotonic() - began:.0f} s until all was as wanted")
        await running.no_orphan_no_double()
        told = running.told(event, words)
        assert told, f"no {event} with {words!r}\n{running.stack.log_tail('broker')}"
        note(str(told[0]))
        streams.stop()
    running.no_traceback()
    if cuts:
        outcomes = streams.outcomes()
        assert outcomes[Outcome.FINISHED] + outcomes[Outcome.CUT] == streams.player.sent, streams.player.problems
    else:
        streams.all_finished()
