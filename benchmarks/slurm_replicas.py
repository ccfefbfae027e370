"""A broker, a gateway and emulated engines as jobs of a real Slurm, all started by a benchmark."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from cli.demo.stack import Stack
from tests.support.real_slurm import GPU_PARTITION, QUICK, RealSlurm
from tests.support.slurm_stack import slurm_stack
from tests.support.waiting import until


@dataclass(frozen=True, slots=True)
class Site:
    slurm: RealSlurm
    stack: Stack
    client: httpx.Client

    def scale(self, target: int) -> None:
        override = {"model_id": "chat", "target": target, "for_s": 600.0, "author": "bench", "because": "to measure"}
        self.client.post("/v1/overrides", json=override).raise_for_status()

    def ready(self) -> set[str]:
        """The endpoints in the registry that take requests."""
        endpoints = self.client.get("/v1/endpoints").json()["endpoints"]
        return {endpoint["endpoint_id"] for endpoint in endpoints if endpoint["phase"] == "ready"}

    def jobs(self) -> list[str]:
        """All that wait, run or are being ended."""
        return self.slurm.command("squeue", "-h", "-o", "%i").split()

    def engines(self) -> dict[int, str]:
        """The address of each engine that runs, by its process."""
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.slurm.folder) and "simulator.emulator" in (words := process.cmdline()):
                    port = words[words.index("--port") + 1]
                    found |= {process.pid: f"http://127.0.0.1:{port}"} if port.isdigit() else {}
            except psutil.Error:
                continue
        return found


@contextmanager
def site() -> Iterator[Site]:
    """With one replica ready."""
    with (
        RealSlurm(2, [GPU_PARTITION], QUICK, rest=True, gpus_per_node=2) as slurm,
        tempfile.TemporaryDirectory() as folder,
        slurm_stack(slurm, Path(folder), f"bench-{os.getpid()}") as stack,
        stack.client() as client,
    ):
        started = Site(slurm, stack, client)
        until(started.ready, "one replica is ready", 60)
        yield started
