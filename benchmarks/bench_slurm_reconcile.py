"""One poll of 1,000 jobs of ours among 30,000: from a slurmrestd on loopback, whole and by states, and from squeue.

``slurm_reconcile_memory``: the peak of a process of its own that does both.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from actuators.slurm import squeue
from actuators.slurm.actuator import SlurmActuator
from actuators.slurm.client import SiteFacts, SlurmClient
from actuators.slurm.commands import CommandClient
from actuators.slurm.job import JobSpec
from actuators.slurm.marks import Mark
from actuators.slurm.polling import LONGEST_S
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens
from actuators.slurm.runner import Finished
from benchmarks.base import Measurement
from broker.app.agents import AgentTable
from broker.clock import SystemClock
from broker.log_lines import configure_logging
from broker.model.plan import Launch
from broker.model.ports import Clock
from broker.model.spec import PoolSpec
from tests.support.fake_slurmrestd import FixedClock

TARGET_S = 1.0
TARGET_MB = 200.0
JOBS = 30_000
OURS = 1_000
POLL_S = 5.0
NUMBERS = 66
"""Of what else a record tells: with these it is as long as a real one of v0.0.45, 8.2 KB."""
MARK = Mark("c1", "gpu", "chat", 0, 1, 1)


def run() -> list[Measurement]:
    measured = subprocess.run([sys.executable, "-m", __name__], check=True, stdout=subprocess.PIPE, text=True)
    return [Measurement(**found) for found in json.loads(measured.stdout)]


def measure() -> list[dict[str, object]]:
    with _slurmrestd() as url:
        by_rest_s = asyncio.run(_polled_s(_rest(url)))
        by_states_s = asyncio.run(_polled_s(_rest(url), after_s=POLL_S))
    by_squeue_s = asyncio.run(_polled_s(_commands()))
    return [
        {"name": "slurm_reconcile_rest", "value": round(by_rest_s, 3), "unit": "s", "target": TARGET_S},
        {"name": "slurm_reconcile_states", "value": round(by_states_s, 3), "unit": "s", "target": TARGET_S},
        {"name": "slurm_reconcile_squeue", "value": round(by_squeue_s, 3), "unit": "s", "target": TARGET_S},
        {
            "name": "slurm_reconcile_memory",
            "value": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "unit": "MiB",
            "target": TARGET_MB,
        },
    ]


async def _polled_s(client: SlurmClient, after_s: float = LONGEST_S) -> float:
    """Processor time of the second poll, ``after_s`` later, since the first also makes the session."""
    actuator = _actuator(client, clock := FixedClock())
    await actuator.observe()
    clock.at += after_s
    began = time.process_time()
    seen = await actuator.observe()
    taken_s = time.process_time() - began
    await actuator.close()
    assert len(seen.replicas) == OURS, seen.error
    return taken_s


def _actuator(client: SlurmClient, clock: Clock) -> SlurmActuator:
    pool = PoolSpec(MARK.pool_id, "slurm", OURS, options={"partition": "gpu", "time_limit_s": 3600.0})
    return SlurmActuator(
        pool, client, AgentTable(clock), _renders_nothing, cluster=MARK.cluster, clock=clock, poll_s=POLL_S
    )


def _renders_nothing(launch: Launch, facts: SiteFacts, now: float) -> JobSpec:
    raise AssertionError("nothing is submitted here")


# slurmrestd


def _rest(url: str) -> SlurmClient:
    clock = SystemClock()
    return RestClient(url, Tokens(_token, clock), clock, user="tide", parser="v0.0.45")


async def _token() -> str:
    return "e30.e30.c2lnbmF0dXJl"


@contextmanager
def _slurmrestd() -> Iterator[str]:
    """In a process of its own, so that its work is not counted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.Process(target=_serve, args=(listener,), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.kill()
            process.join()


def _serve(listener: socket.socket) -> None:
    """The same again and again: thirty jobs of which one is ours, a thousand times, or the states of ours."""
    others = ",\n    ".join(_record(number, "other", f"job-{number}", "") for number in range(JOBS // OURS - 1))
    ours = [replace(MARK, ordinal=ordinal) for ordinal in range(OURS)]
    listed = [f"{_record(mark.ordinal, 'tide', mark.job_name, mark.comment)},\n    {others}" for mark in ours]
    head, tail = '{\n  "jobs": [\n    ', '\n  ],\n  "meta": {},\n  "errors": [],\n  "warnings": []\n}'
    listing = (head + ",\n    ".join(listed) + tail).encode()
    states = (head + ",\n    ".join(_state(mark.ordinal) for mark in ours) + tail).encode()
    while True:
        asking, _ = listener.accept()
        with asking:
            content = states if b"/jobs/state/" in asking.recv(65536) else listing
            asking.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            asking.sendall(f"Content-Length: {len(content)}\r\n\r\n".encode() + content)


def _state(number: int) -> str:
    return json.dumps({"job_id": str(number + 1), "state": ["RUNNING"]}, indent=1)


def _record(number: int, user: str, name: str, comment: str) -> str:
    def told(value: int) -> dict[str, object]:
        return {"set": True, "infinite": False, "number": value}

    record = {
        "job_id": number + 1, "name": name, "user_name": user, "comment": comment, "partition": "gpu",
        "job_state": ["RUNNING"], "state_reason": "None", "nodes": f"n[{number}-{number + 1}]",
        "restart_cnt": 0, "submit_time": told(1_795_261_000), "start_time": told(1_795_261_100),
        "end_time": told(1_795_264_700), "time_limit": told(60), "standard_output": "/home/logs/%j.out",
        "exit_code": {"return_code": told(0), "signal": {"id": told(0), "name": ""}},
        **{f"some_other_number_{index}": told(index) for index in range(NUMBERS)},
    }  # fmt: skip
    return json.dumps(record, indent=2).replace("\n", "\n    ")


# squeue


def _commands() -> SlurmClient:
    values = {
        "UserName": "tide", "Partition": "gpu", "State": "RUNNING", "Reason": "None", "NodeList": "n1",
        "RestartCnt": "0", "SubmitTime": "1795261000", "StartTime": "1795261100", "EndTime": "1795264700",
        "TimeLimit": "1:00:00", "exit_code": "0", "STDOUT": "/home/logs/%j.out",
    }  # fmt: skip
    lines = []
    for mark in (replace(MARK, ordinal=ordinal) for ordinal in range(OURS)):
        told = {"JobID": str(mark.ordinal + 1), "Name": mark.job_name, "Comment": mark.comment, **values}
        lines.append("".join(f"{told[name]:<{width}}{squeue.FIELD_END}" for name, width in squeue.WIDTHS.items()))
    return CommandClient(_Squeue("".join(f"{line}{squeue.RECORD_END}\n" for line in lines)), SystemClock())


class _Squeue:
    where = "squeue"

    def __init__(self, output: str) -> None:
        self._output = output

    async def run(self, arguments: Sequence[str], given: str = "", *, timeout_s: float) -> Finished:
        return Finished(0, self._output, "")

    async def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    configure_logging(sys.stderr)
    print(json.dumps(measure()))
