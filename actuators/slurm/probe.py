"""A job that looks at a node of the pool, and what its words mean: ``tidegate doctor slurm --probe``."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actuators.slurm.client import SiteFacts, SlurmClient
from actuators.slurm.commands import skew_s
from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.options import JobOptions, options_of
from actuators.slurm.reasons import explain
from actuators.slurm.script import probe_job
from broker.model import wire
from broker.model.errors import ActuatorError, ConfigError, TransientError, WireError
from broker.model.finding import Finding, Verdict, clock_finding
from broker.model.ports import Clock
from broker.model.spec import PoolSpec
from broker.model.units import format_duration

LIMIT_S = 300.0
LOOKED_EVERY_S = 1.0
HEARD_WITHIN_S = 75.0
"""Of a job that runs: its node may take a minute to fetch the image of a container."""
ENDED_WITHIN_S = 20.0
CONNECTED_WITHIN_S = 3.0
PORT_WITHIN_S = 10.0
"""After its output has shown that the probe is there."""
MOST_BYTES = 65536

UNSEEN = Finding(
    Verdict.LOOK,
    "nodes",
    "not looked at: GPUs, Python, container, weights, prolog, the way to the broker and from the gateway, clock, "
    "signals, shared files; `tidegate doctor slurm --probe` submits a short job that does",
)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What ``node_probe`` tells. A problem is empty where there was none, ``gpus`` None where Slurm has told
    the job of none, ``devices`` None where the node has no tool to count them."""

    node: str
    address: str
    python: str
    port_problem: str
    broker_problem: str
    gpus: int | None
    devices: int | None
    launch_problem: str
    now: float


@dataclass(frozen=True, slots=True)
class _Heard:
    """What came from the node, by its port (with how far its clock is ahead of ours) and by the job's output."""

    by_port: NodeReport | None = None
    skew_s: float = 0.0
    output: str = ""

    @property
    def report(self) -> NodeReport | None:
        return self.by_port or _report_in(self.output)


async def probed(
    client: SlurmClient, pool: PoolSpec, facts: SiteFacts, clock: Clock, wait_s: float | None
) -> list[Finding]:
    """Makes a job's script, submits it, waits ``wait_s`` for it to start, hears what it says, and ends it whatever
    happens. With ``wait_s`` None nothing is submitted."""
    try:
        job = probe_job(pool, facts, clock.now(), limit_s=LIMIT_S)
    except (ActuatorError, ConfigError) as error:
        return [Finding(Verdict.MEND, "script", str(error))]
    if wait_s is None:
        return [Finding(Verdict.FINE, "script", "can be made"), UNSEEN]
    try:
        job_id = await client.submit(job)
    except ActuatorError as error:
        return [Finding(Verdict.MEND, "probe", str(error))]
    try:
        return await _visited(client, options_of(pool).job, job_id, clock, wait_s)
    except ActuatorError as error:
        return [Finding(Verdict.MEND, "probe", f"job {job_id} was lost sight of: {error}")]
    finally:
        with contextlib.suppress(ActuatorError):  # it ends by itself, soon
            await client.cancel(job_id)


async def _visited(client: SlurmClient, options: JobOptions, job_id: int, clock: Clock, wait_s: float) -> list[Finding]:
    job = await _when(client, job_id, clock, wait_s, lambda job: job.state is not JobState.PENDING)
    if job.state is JobState.PENDING:
        waits = f"job {job_id} did not start within {format_duration(wait_s)} and is cancelled: {job.reason}: "
        return [Finding(Verdict.LOOK, "probe", f"{waits}{explain(job.reason)}; --wait gives it longer")]
    heard = await _heard(client, job, options, clock)
    report = heard.report
    if report is None:
        return [_unheard(await _when(client, job_id, clock, 0.0, lambda job: True), heard.output)]
    await client.signal(job_id, "USR1")
    job = await _when(client, job_id, clock, ENDED_WITHIN_S, lambda job: job.gone)
    with contextlib.suppress(OSError):  # where it is seen here; all that it says is told below
        await asyncio.to_thread(Path(job.output).unlink)
    return [
        Finding(Verdict.FINE, "probe", f"job {job_id} looked at {report.node}"),
        *node_findings(report, options),
        _of_port(heard, report, options, job_id),
        *([clock_finding("clock of the node", f"{report.node}'s", heard.skew_s)] if heard.by_port else []),
        _of_signal(job),
        _of_output(job, heard.output),
    ]


async def _when(
    client: SlurmClient, job_id: int, clock: Clock, within_s: float, holds: Callable[[JobRecord], bool]
) -> JobRecord:
    """The job once it is so, or as it is after ``within_s``. Raises ``TransientError`` if it is listed no more."""
    until = clock.monotonic() + within_s
    while True:
        job = next((job for job in await client.jobs() if job.job_id == job_id), None)
        if job is None:
            raise TransientError(f"the listing does not show it; look for it with `scontrol show job {job_id}`")
        if holds(job) or clock.monotonic() >= until:
            return job
        await clock.sleep_until(clock.now() + LOOKED_EVERY_S)


async def _heard(client: SlurmClient, job: JobRecord, options: JobOptions, clock: Clock) -> _Heard:
    """By the port, or by what its output says once the port has not answered for a while."""
    until, heard = clock.monotonic() + HEARD_WITHIN_S, _Heard()
    while clock.monotonic() < until:
        told = heard.report
        host = options.address or (told.address if told else job.nodes[0])
        asked_at = clock.now()
        if (by_port := await _asked(host, port_of(options.ports, job.job_id))) is not None:
            return _Heard(by_port, skew_s(by_port.now, asked_at, clock.now()), await _read(job.output))
        heard = _Heard(output=await _read(job.output))
        if heard.report is not None:
            until = min(until, clock.monotonic() + PORT_WITHIN_S)
        elif (await _when(client, job.job_id, clock, 0.0, lambda job: True)).gone:
            break
        await clock.sleep_until(clock.now() + LOOKED_EVERY_S)
    return heard


async def _asked(host: str, port: int) -> NodeReport | None:
    try:
        async with asyncio.timeout(CONNECTED_WITHIN_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return _report_in((await reader.read(MOST_BYTES)).decode(errors="replace"))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


async def _read(output: str) -> str:
    """Nothing where this machine does not see the nodes' files."""
    try:
        return await asyncio.to_thread(Path(output).read_text, errors="replace")
    except OSError:
        return ""


def port_of(ports: tuple[int, int], job_id: int) -> int:
    """As ``node_probe`` takes it."""
    first, last = ports
    return first + job_id % (last - first + 1)


def _report_in(text: str) -> NodeReport | None:
    for line in reversed(text.splitlines()):
        try:
            report: NodeReport = wire.decode(NodeReport, json.loads(line))
        except (ValueError, WireError):
            continue
        return report
    return None


# What it means


def _unheard(job: JobRecord, output: str) -> Finding:
    where = f"job {job.job_id} on {', '.join(job.nodes)}"
    said = output.strip().splitlines()
    if said:
        return Finding(Verdict.MEND, "probe", f"{where} says: {said[-1]}")
    words = (
        f"{where} ({job.state.value}) tells nothing that is heard here; see {job.output} there, and if there is no "
        "such file mend job.directory: it must exist on the node, and our user must be able to write to it"
    )
    return Finding(Verdict.MEND, "probe", words)


def node_findings(report: NodeReport, options: JobOptions) -> Iterator[Finding]:
    yield Finding(Verdict.FINE, "job.python", f"{options.python} is {report.python} on {report.node}")
    runs = f"a command in {options.container.image}" if options.container else "a command of the script"
    if report.launch_problem:
        yield Finding(Verdict.MEND, "launcher", f"{runs} does not run on {report.node}: {report.launch_problem}")
    else:
        yield Finding(Verdict.FINE, "launcher", f"{runs} runs on {report.node}")
    if options.weights:
        yield Finding(Verdict.FINE, "job.weights", f"{options.weights} can be read on {report.node}")
    yield _of_gpus(report)
    yield _of_broker(report, options.broker_url)


def _of_gpus(report: NodeReport) -> Finding:
    if report.devices == 0:
        return Finding(
            Verdict.MEND, "GRES", f"{report.node} gives the job a GPU, and its driver shows none (nvidia-smi)"
        )
    if report.gpus is None:
        return Finding(
            Verdict.LOOK, "GRES", f"on {report.node} a job with one GPU is not told which (CUDA_VISIBLE_DEVICES); let "
            "gres.conf name the devices (AutoDetect=nvml, or File= with Flags=nvidia_gpu_env)",
        )  # fmt: skip
    if report.gpus != 1:
        return Finding(Verdict.MEND, "GRES", f"on {report.node} a job with one GPU is told of {report.gpus}")
    return Finding(Verdict.FINE, "GRES", f"on {report.node} a job with one GPU sees one")


def _of_broker(report: NodeReport, url: str) -> Finding:
    if not report.broker_problem:
        return Finding(Verdict.FINE, "broker", f"{report.node} reaches {url}")
    if report.broker_problem == "refused":
        return Finding(Verdict.LOOK, "broker", f"{report.node} reaches the machine of {url}, where nothing listens now")
    words = f"{report.node} does not reach {url}: {report.broker_problem}; open the way, or mend job.broker_url"
    return Finding(Verdict.MEND, "broker", words)


def _of_port(heard: _Heard, report: NodeReport, options: JobOptions, job_id: int) -> Finding:
    place = f"{options.address or report.address}:{port_of(options.ports, job_id)}"
    if heard.by_port is not None:
        return Finding(Verdict.FINE, "ports", f"{place} on {report.node} is reached from this machine")
    if report.port_problem:
        return Finding(Verdict.LOOK, "ports", f"not tried, since on {report.node} {report.port_problem}; try again")
    return Finding(
        Verdict.MEND, "ports", f"{place} on {report.node} is not reached from this machine; where a gateway runs, open "
        f"ports {options.ports[0]} to {options.ports[1]} of the nodes, or mend job.address",
    )  # fmt: skip


def _of_signal(job: JobRecord) -> Finding:
    if job.gone and job.exit_code == 0:
        return Finding(Verdict.FINE, "signals", "one that is sent to a job reaches its script")
    words = (
        f"USR1 was sent to the script of job {job.job_id} and did not reach it; replicas are cancelled without a drain"
    )
    return Finding(Verdict.MEND, "signals", f"{words}: see that slurmd may signal batch scripts")


def _of_output(job: JobRecord, output: str) -> Finding:
    if output:
        return Finding(Verdict.FINE, "job.directory", f"what jobs write there is seen here ({Path(job.output).parent})")
    return Finding(Verdict.LOOK, "job.directory", f"{job.output} is not seen from here; jobs' output is read on nodes")
