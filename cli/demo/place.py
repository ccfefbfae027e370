"""Where the demo's replicas run: as processes of this machine, or as jobs of a Slurm on it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Protocol

from actuators.local.command import REPLICA_ID
from actuators.slurm.commands import CommandClient
from actuators.slurm.marks import mark_of_job
from actuators.slurm.runner import LocalRunner
from broker.clock import SystemClock
from broker.model.errors import ConfigError
from cli.demo.scenario import MAXIMUM
from cli.demo.stack import Stack, StackError

_PACKAGES = Path(__file__).parents[2]
_GONE_WITHIN_S = 30.0


class Place(Protocol):
    """``load_s`` is how long a generated load lasts there. ``renews``: a replica's life is so short there that one must
    be succeeded during that load."""

    load_s: float
    stop_grace_s: float
    renews: bool

    async def kind(self) -> str:
        """What replicas are there, in words."""
        ...

    def site_yaml(self, cluster: str, folder: Path, log: str) -> str:
        """``log`` is the section of that name."""
        ...

    async def running(self, stack: Stack) -> list[str]:
        """The ids of all replicas of the stack that wait or run, whatever its broker knows of them."""
        ...

    async def end(self, stack: Stack) -> None:
        """End those that outlived the stack."""
        ...


class Processes:
    """Replicas of a pool of kind ``local``, which a stack ends itself."""

    load_s = 60.0
    stop_grace_s = 40.0
    renews = False

    async def kind(self) -> str:
        return "processes of this machine"

    def site_yaml(self, cluster: str, folder: Path, log: str) -> str:
        pool = f"local: {{kind: local, gpus: {MAXIMUM}, state_dir: replicas, log_dir: log}}"
        return _site_yaml(cluster, pool, 0, log)

    async def running(self, stack: Stack) -> list[str]:
        found = []
        for process in stack.replica_processes():
            try:
                found.append(process.environ().get(REPLICA_ID, ""))
            except OSError:
                continue
        return found

    async def end(self, stack: Stack) -> None:
        """Nothing is left."""


class SlurmJobs:
    """Jobs of one partition of the Slurm whose commands are here and whose nodes are this machine.

    Raises ``ConfigError`` where there are no such commands.
    """

    load_s = 100.0
    stop_grace_s = 10.0
    renews = True

    def __init__(self, partition: str) -> None:
        if absent := [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]:
            raise ConfigError(
                f"--slurm: {', '.join(absent)} not found here; install slurm-client, or let `make demo-slurm` start a "
                "Slurm of its own"
            )
        self._partition = partition
        self._client = CommandClient(LocalRunner(), SystemClock())

    async def kind(self) -> str:
        return f"jobs of Slurm {(await self._client.facts()).release}, partition {self._partition}"

    def site_yaml(self, cluster: str, folder: Path, log: str) -> str:
        """A wall time of two minutes, the shortest in which a replica can be loaded, serve, and be succeeded before
        Slurm's notice, which comes up to 30 s early. The priors ask for a successor by half of that life."""
        port = _free_port()
        job = {
            "broker_url": f"http://127.0.0.1:{port}",
            "directory": str(folder),
            "python": sys.executable,
            "environment": {"PYTHONPATH": str(_PACKAGES)},  # a job inherits nothing, and a checkout may be uninstalled
            "address": "127.0.0.1",
            "notice": "20s",
        }
        pool = (
            f"slurm: {{kind: slurm, gpus: {2 * MAXIMUM}, partition: {json.dumps(self._partition)}, time_limit: 2m, "
            f"poll: 1s, job: {json.dumps(job)}}}\n"
            "limits: {renewal: {margin: 5s, queue_prior: 5s, load_prior: 40s}}"
        )
        return _site_yaml(cluster, pool, port, log)

    async def running(self, stack: Stack) -> list[str]:
        return list(await self._jobs(stack))

    async def end(self, stack: Stack) -> None:
        for job_id in (await self._jobs(stack)).values():
            await self._client.cancel(job_id)
        deadline = time.monotonic() + _GONE_WITHIN_S
        while left := await self._jobs(stack):
            if time.monotonic() > deadline:
                raise StackError(f"cancelled jobs are still there after {_GONE_WITHIN_S:g} s: {sorted(left.values())}")
            await asyncio.sleep(0.5)

    async def _jobs(self, stack: Stack) -> dict[str, int]:
        """The job of each replica of the stack that waits or runs."""
        marked = [(mark_of_job(job), job) for job in await self._client.jobs()]
        return {
            mark.replica_id: job.job_id
            for mark, job in marked
            if mark is not None and mark.cluster == stack.cluster and not job.gone
        }


def _site_yaml(cluster: str, pool: str, port: int, log: str) -> str:
    return f"""\
cluster: {cluster}
pools:
  {pool}
log: {log}
api: {{port: {port}}}
scrape: {{interval: 1s, timeout: 1s}}
outputs: {{endpoints_file: endpoints.json}}
"""


def _free_port() -> int:
    """One that nobody listens on now: jobs are told the broker's port before it has one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
