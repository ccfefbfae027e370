"""One listing of 1,000 of our jobs: among 30,000 from slurmrestd, and alone from squeue."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import httpx

from actuators.slurm import squeue
from actuators.slurm.client import SlurmClient
from actuators.slurm.commands import CommandClient
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens
from actuators.slurm.runner import Finished
from benchmarks.base import Measurement
from broker.clock import SystemClock

TARGET_S = 1.0
TARGET_MB = 200.0
JOBS = 30_000
OURS = 1_000
NUMBERS = 30
CORES = 97
"""Of what else a record tells: with these it is as long as a real one of v0.0.45, 13.8 KB."""


def run() -> list[Measurement]:
    return [*_measured("slurm_listing_rest", _rest), *_measured("slurm_listing_squeue", _commands)]


def _measured(name: str, client: Callable[[], SlurmClient]) -> Iterator[Measurement]:
    """Processor time of one listing, and, in another, what it allocates at its most."""

    async def timed() -> float:
        asking = client()
        began = time.process_time()
        assert len(await asking.jobs()) == OURS
        took_s = time.process_time() - began
        await asking.close()
        return took_s

    cpu_s = asyncio.run(timed())
    tracemalloc.start()
    asyncio.run(timed())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    yield Measurement(name, round(cpu_s, 3), "s", TARGET_S)
    yield Measurement(f"{name}_memory", round(peak / 1e6, 1), "MB", TARGET_MB)


def _rest() -> SlurmClient:
    clock = SystemClock()
    return RestClient(
        "http://slurmrestd", Tokens(_token, clock), clock, user="tide", parser="v0.0.45", transport=_Site()
    )


async def _token() -> str:
    return "e30.e30.c2lnbmF0dXJl"


class _Site(httpx.AsyncBaseTransport):
    """Answers with its jobs, of which every thirtieth is ours: the same thirty again and again, which costs a reader no
    less."""

    def __init__(self) -> None:
        every = JOBS // OURS
        self._some = ",\n    ".join(_record(number, "other" if number else "tide") for number in range(every)).encode()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=self._answer())

    async def _answer(self) -> AsyncIterator[bytes]:
        yield b'{\n  "jobs": [\n    ' + self._some
        for _ in range(OURS - 1):
            yield b",\n    " + self._some
        yield b'\n  ],\n  "meta": {},\n  "errors": [],\n  "warnings": []\n}'


def _record(number: int, user: str) -> str:
    def told(value: int) -> dict[str, object]:
        return {"set": True, "infinite": False, "number": value}

    record = {
        "job_id": number + 1, "name": f"job-{number}", "user_name": user, "comment": "", "partition": "gpu",
        "job_state": ["RUNNING"], "state_reason": "None", "nodes": f"n[{number}-{number + 1}]",
        "restart_cnt": 0, "submit_time": told(1_795_261_000), "start_time": told(1_795_261_100),
        "end_time": told(1_795_264_700), "time_limit": told(60), "standard_output": "/home/logs/%j.out",
        "exit_code": {"return_code": told(0), "signal": {"id": told(0), "name": ""}},
        **{f"some_other_number_{index}": told(index) for index in range(NUMBERS)},
        "job_resources": [{"index": index, "status": ["UNALLOCATED"]} for index in range(CORES)],
    }  # fmt: skip
    return json.dumps(record, indent=2).replace("\n", "\n    ")


def _commands() -> SlurmClient:
    values = {
        "Name": "tg-chat-0-g1", "UserName": "tide", "Comment": "tidegate: cluster=c1 pool=gpu", "Partition": "gpu",
        "State": "RUNNING", "Reason": "None", "NodeList": "n1", "RestartCnt": "0", "SubmitTime": "1795261000",
        "StartTime": "1795261100", "EndTime": "1795264700", "TimeLimit": "1:00:00", "exit_code": "0",
        "STDOUT": "/home/logs/%j.out",
    }  # fmt: skip
    lines = [
        "".join(
            f"{values.get(name, str(number + 1)):<{width}}{squeue.FIELD_END}" for name, width in squeue.WIDTHS.items()
        )
        for number in range(OURS)
    ]
    return CommandClient(_Squeue("".join(f"{line}{squeue.RECORD_END}\n" for line in lines)), SystemClock())


class _Squeue:
    where = "squeue"

    def __init__(self, output: str) -> None:
        self._output = output

    async def run(self, arguments: Sequence[str], given: str = "", *, timeout_s: float) -> Finished:
        return Finished(0, self._output, "")

    async def close(self) -> None:
        """Nothing is held."""
