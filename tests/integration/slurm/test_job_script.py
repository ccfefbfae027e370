"""A job's whole script, run by bash as Slurm's daemon would run it: as a file, with nothing else on the node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actuators.slurm.script import job_spec
from broker.model.agents import AgentOrder, AgentPhase, EndCause
from broker.model.plan import Launch
from broker.model.replica import Tier
from broker.model.spec import EngineSpec, JsonValue, ModelSpec, PolicySpec, PoolSpec
from tests.support.agent_world import (
    ACTION,
    EMULATOR,
    ENDPOINT_KEY,
    TOKEN,
    ServedBroker,
    command_line,
    get,
    served_broker,
)
from tests.support.shared_data import REPOSITORY
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@contextmanager
def job(broker: ServedBroker, folder: Path, **job_options: JsonValue) -> Iterator[subprocess.Popen[bytes]]:
    engine = EngineSpec(EMULATOR, {"PYTHONPATH": str(REPOSITORY)})
    model = ModelSpec("chat", engine, PolicySpec("threshold"), stop_grace_s=15.0, load_timeout_s=30.0)
    launch = Launch(ACTION, "demo", "chat-0-g1", model, "shared", 0, 1, Tier.ELASTIC)
    options: dict[str, JsonValue] = {
        "broker_url": broker.url, "directory": str(folder), "python": sys.executable, **job_options,
    }  # fmt: skip
    pool = PoolSpec("shared", "slurm", 8, options={"partition": "gpu", "time_limit_s": 3600.0, "job": options})
    script = folder / "slurm_script"
    script.write_text(job_spec(launch, pool, token=TOKEN).script)
    script.chmod(0o700)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}
    with (folder / "job.out").open("ab") as output:
        process = subprocess.Popen([script], stdout=output, stderr=output, env=environment, cwd=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()  # its engine ends with it
        process.wait(20)


async def test_a_job_serves_from_its_script_alone_and_ends_when_it_is_told(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with job(broker, tmp_path) as process:
            ready = await broker.hears_phase(AgentPhase.READY)
            assert (ready.job_id, ready.node) == (12, "n1")
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
            assert TOKEN not in " ".join(command_line(process.pid))
            broker.world.agents.tell(ACTION, AgentOrder.STOP)
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert ended.end.cause is EndCause.STOPPED
            await eventually(lambda: process.poll() is not None, "the job ends")
            assert process.returncode == 0
        assert TOKEN not in (tmp_path / "job.out").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "/nowhere/weights"}, "the weights at /nowhere/weights cannot be read here; mend job.weights"),
        ({"python": "python-of-nowhere"}, "there is no python-of-nowhere on this node; mend job.python"),
        ({"modules": ["of-nowhere"]}, "module of-nowhere cannot be loaded; mend job.modules"),
        ({"container": {"image": "/nowhere.sif"}}, "there is no apptainer on this node; mend job.modules"),
    ],
    ids=["weights", "python", "module", "apptainer"],
)
async def test_what_a_node_lacks_is_the_last_line_of_the_jobs_output(
    options: dict[str, JsonValue], words: str, tmp_path: Path
) -> None:
    async with served_broker() as broker:
        with job(broker, tmp_path, **options) as process:
            await eventually(lambda: process.poll() is not None, "the job ends")
        assert process.returncode == 2
        assert words in (tmp_path / "job.out").read_text().splitlines()[-1]
