"""From a launch to the id of its job over slurmrestd, on a real Slurm that the benchmark starts."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from actuators.slurm.actuator import SlurmActuator
from actuators.slurm.client import SiteFacts
from actuators.slurm.job import JobSpec
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens, from_file
from actuators.slurm.script import fitted_job
from benchmarks.base import Measurement
from broker.app.agents import AgentTable
from broker.clock import SystemClock
from broker.model.plan import Launch
from broker.model.spec import JsonValue, PoolSpec
from tests.support.actuator_worlds import launch_of
from tests.support.real_slurm import RealSlurm

TARGET_MS = 300.0
LAUNCHES = 40
CLUSTER = "bench"
CLOSED = "PartitionName=gpu Nodes=ALL Default=YES State=DOWN"
"""Takes jobs and starts none."""


def run() -> list[Measurement]:
    with RealSlurm(2, [CLOSED], rest=True, gpus_per_node=2) as slurm:
        (slurm.folder / "token").write_text(slurm.command("scontrol", "token", "lifespan=3600"))
        times_ms = sorted(asyncio.run(_started_ms(slurm)))
    p95 = times_ms[int(0.95 * LAUNCHES) - 1]
    details = {"median_ms": round(median(times_ms), 1), "worst_ms": round(times_ms[-1], 1), "launches": LAUNCHES}
    return [Measurement("slurm_submit_p95", round(p95, 1), "ms", TARGET_MS, details=details)]


async def _started_ms(slurm: RealSlurm) -> list[float]:
    """Of each launch, wall-clock: a listing that shows that it was not carried out yet, the script, the submission."""
    clock = SystemClock()
    asked: dict[str, JsonValue] = {"broker_url": "http://login1:8600", "directory": str(slurm.folder)}
    pool = PoolSpec("shared", "slurm", LAUNCHES, options={"partition": "gpu", "time_limit_s": 3600.0, "job": asked})
    client = RestClient(slurm.rest_url, Tokens(from_file(slurm.folder / "token"), clock), clock)

    def render(launch: Launch, facts: SiteFacts, now: float) -> JobSpec:
        return fitted_job(launch, pool, facts, now, token="t0ken")

    actuator = SlurmActuator(pool, client, AgentTable(clock), render, cluster=CLUSTER, clock=clock)
    times_ms = []
    for ordinal in range(LAUNCHES):
        launch = launch_of(CLUSTER, pool_id="shared", ordinal=ordinal, engine=("engine",))
        began = time.perf_counter()
        receipt = await actuator.start(launch)
        times_ms.append(1e3 * (time.perf_counter() - began))
        assert receipt.detail.startswith("job "), receipt
    await actuator.close()
    return times_ms
