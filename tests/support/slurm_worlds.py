"""The worlds in which the contract of Slurm's clients is tried: a pretended Slurm, and a real one by each transport."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from actuators.slurm.client import PartitionFacts, SlurmClient
from actuators.slurm.commands import CommandClient
from actuators.slurm.fake import FakeSlurm
from actuators.slurm.job import JobRecord, JobSpec, JobState
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens, from_command
from actuators.slurm.runner import LocalRunner
from actuators.slurm.ssh import SshRunner
from broker.clock import SystemClock
from broker.model.errors import TransientError
from tests.support.real_slurm import RealSlurm
from tests.support.real_sshd import RealSshd

T = TypeVar("T")

PATIENCE_S = 40.0
PARTITIONS = (
    "PartitionName=batch Nodes=ALL Default=YES DefaultTime=10 MaxTime=1-00:00:00",
    "PartitionName=short Nodes=n1 MaxTime=30",
)
OPTIONS = (
    "EnforcePartLimits=ALL",
    "JobRequeue=1",
    "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,requeue_delay=1",
)
SCRIPT = """\
#!/bin/bash
# Ends with the status that is written to its file, and notes the signals that it gets.
at="{folder}/$SLURM_JOB_ID"
trap 'echo USR1 >> "$at.signals"' USR1
env > "$at.env" && mv "$at.env" "$at.environment"
until [ -e "$at.exit" ]; do sleep 0.1; done
exit "$(cat "$at.exit")"
"""

_serial = itertools.count(1)


def job(**changes: object) -> JobSpec:
    """A job with a name of its own that needs a minute at most."""
    spec = JobSpec(
        name=f"tg-{next(_serial)}-{time.monotonic_ns()}",
        comment="tidegate:test",
        script=SCRIPT.format(folder="/nonexistent"),
        partition="batch",
        time_limit_s=300.0,
        output="/dev/null",
        working_directory="/tmp",
        environment={"GREETING": 'it\'s $HOME, "quoted"\nand on two lines'},
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


class SlurmWorld(Protocol):
    """``client`` and the hands of somebody beside it."""

    client: SlurmClient
    user: str
    tells_states: bool
    """Whether ``unchanged`` has an answer here."""

    def job(self, **changes: object) -> JobSpec:
        """A job that runs until ``finish``."""
        ...

    def finish(self, job_id: int, exit_code: int) -> None: ...

    def requeue(self, job_id: int) -> None: ...

    def hears(self, job_id: int) -> bool:
        """Whether its batch script has come as far as to note signals: an earlier one ends it."""
        ...

    def signals(self, job_id: int) -> list[str]:
        """Those that the batch script got."""
        ...

    def away(self) -> SlurmClient:
        """A client of the same kind whose Slurm is not there."""
        ...

    async def pass_time(self) -> None: ...


async def record_of(world: SlurmWorld, job_id: int) -> JobRecord | None:
    return next((record for record in await world.client.jobs() if record.job_id == job_id), None)


async def until(world: SlurmWorld, job_id: int, holds: Callable[[JobRecord], bool]) -> JobRecord:
    """The job's record once ``holds`` of it."""

    async def look() -> JobRecord | None:
        record = await record_of(world, job_id)
        return record if record is not None and holds(record) else None

    return await eventually(world, look)


async def eventually(world: SlurmWorld, look: Callable[[], Awaitable[T | None]]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while (found := await look()) is None:
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s"
        await world.pass_time()
    return found


class FakeWorld:
    """Time goes on by a second whenever somebody waits."""

    user = "tide"
    tells_states = True

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        day, half_hour = 86400.0, 1800.0
        self.slurm = FakeSlurm(
            lambda: self._now,
            partitions=(
                PartitionFacts("batch", True, 2, day, 600.0),
                PartitionFacts("short", True, 1, half_hour, half_hour),
            ),
            pending_s=1.0,
            completing_s=1.0,
        )
        self.slurm.tells_states = self.tells_states
        self.client: SlurmClient = self.slurm

    def job(self, **changes: object) -> JobSpec:
        return job(**changes)

    def finish(self, job_id: int, exit_code: int) -> None:
        self.slurm.finish(job_id, state=JobState.FAILED if exit_code else JobState.COMPLETED, exit_code=exit_code)

    def requeue(self, job_id: int) -> None:
        self.slurm.requeue(job_id)

    def hears(self, job_id: int) -> bool:
        return True

    def signals(self, job_id: int) -> list[str]:
        return [name for signalled, name in self.slurm.signals if signalled == job_id]

    def away(self) -> SlurmClient:
        slurm = FakeSlurm(lambda: self._now)
        for call in ("submit", "jobs", "cancel", "signal", "facts"):
            slurm.fail_next(call, TransientError("the pretended Slurm is away"))
        return slurm

    async def pass_time(self) -> None:
        self._now += 1.0


class RealWorld:
    """What the transports have in common: jobs that do as they are told by files."""

    user = "root"
    tells_states = False

    def __init__(self, slurm: RealSlurm, client: SlurmClient) -> None:
        self.slurm = slurm
        self.client = client

    def job(self, **changes: object) -> JobSpec:
        return job(**{"script": SCRIPT.format(folder=self.slurm.folder), **changes})

    def finish(self, job_id: int, exit_code: int) -> None:
        self._file(job_id, "exit").write_text(str(exit_code), encoding="ascii")

    def requeue(self, job_id: int) -> None:
        """Ours are not requeueable; somebody with the right can make them so."""
        self.slurm.command("scontrol", "update", f"jobid={job_id}", "requeue=1")
        self.slurm.command("scontrol", "requeue", str(job_id))

    def hears(self, job_id: int) -> bool:
        return self.environment(job_id) is not None

    def signals(self, job_id: int) -> list[str]:
        told = self._file(job_id, "signals")
        return told.read_text(encoding="ascii").split() if told.exists() else []

    def environment(self, job_id: int) -> str | None:
        """What the batch script found; None until it has begun."""
        told = self._file(job_id, "environment")
        return told.read_text(encoding="utf-8") if told.exists() else None

    def away(self) -> SlurmClient:
        raise NotImplementedError

    async def pass_time(self) -> None:
        await asyncio.sleep(0.1)

    def _file(self, job_id: int, kind: str) -> Path:
        return self.slurm.folder / f"{job_id}.{kind}"

    def _conf_of_nowhere(self) -> dict[str, str]:
        """The environment of a cluster whose controller does not answer."""
        conf = self.slurm.folder / "nowhere.conf"
        text = Path(self.slurm.environment["SLURM_CONF"]).read_text(encoding="utf-8")
        lines = ["SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in text.splitlines()]
        conf.write_text("\n".join([*lines, "MessageTimeout=1", ""]), encoding="utf-8")
        return {**self.slurm.environment, "SLURM_CONF": str(conf)}


class CommandWorld(RealWorld):
    def __init__(self, slurm: RealSlurm) -> None:
        super().__init__(slurm, CommandClient(LocalRunner(slurm.environment), SystemClock()))

    def away(self) -> SlurmClient:
        return CommandClient(LocalRunner(self._conf_of_nowhere()), SystemClock())


class RestWorld(RealWorld):
    def __init__(self, slurm: RealSlurm) -> None:
        super().__init__(slurm, self._client(slurm, slurm.rest_url))
        self.tells_states = not slurm.is_22_05

    def away(self) -> SlurmClient:
        return self._client(self.slurm, "http://127.0.0.1:1", "v0.0.38")

    def _client(self, slurm: RealSlurm, url: str, parser: str | None = None) -> RestClient:
        clock = SystemClock()
        return RestClient(url, Tokens(from_command(LocalRunner(slurm.environment)), clock), clock, parser=parser)


class SshWorld(RealWorld):
    def __init__(self, slurm: RealSlurm, sshd: RealSshd) -> None:
        self.sshd = sshd
        super().__init__(slurm, CommandClient(SshRunner(sshd.login), SystemClock()))

    def away(self) -> SlurmClient:
        return CommandClient(SshRunner(replace(self.sshd.login, port=1)), SystemClock())
