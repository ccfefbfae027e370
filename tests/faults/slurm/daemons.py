"""Hands on the daemons of a test's own Slurm: ended, killed, frozen, and started again as they were."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil

from tests.support.ports import listens
from tests.support.real_slurm import RealSlurm
from tests.support.waiting import until

ENDED_WITHIN_S = 10.0


class Daemons:
    """Found by their name and the cluster's folder in their arguments, so that no other Slurm's are ever touched."""

    def __init__(self, slurm: RealSlurm) -> None:
        self._slurm = slurm
        self._again: list[subprocess.Popen[bytes]] = []

    def find(self, name: str, node: str = "") -> psutil.Process:
        """``node``: of the slurmd that is meant."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                named = command and os.path.basename(command[0]) == name and (not node or command[-1] == node)
                if named and self._folder in " ".join(command):
                    return process
        raise AssertionError(f"{name} {node} of {self._folder} does not run")

    @contextlib.contextmanager
    def away(self, name: str, node: str = "", *, kill: bool = False) -> Iterator[None]:
        """The daemon is ended (``kill``: by SIGKILL) for the length of the block, and answers again after it."""
        process = self.find(name, node)
        command, environment = process.cmdline(), process.environ()
        user = "nobody" if process.uids().real else None
        process.kill() if kill else process.terminate()
        process.wait(ENDED_WITHIN_S)
        try:
            yield
        finally:
            with (self._slurm.folder / f"{name}.out").open("ab") as log:
                again = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                    start_new_session=True, user=user, group="nogroup" if user else None,
                    extra_groups=[] if user else None,
                )  # fmt: skip
            self._again.append(again)
            self._until_answers(name, again)

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """The daemon takes connections and answers none until the block ends."""
        process = self.find(name)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def close(self) -> None:
        for process in reversed(self._again):
            process.terminate()
            process.wait(ENDED_WITHIN_S)

    @property
    def _folder(self) -> str:
        return str(self._slurm.folder)

    def _until_answers(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if name == "slurmrestd":
            port = urlsplit(self._slurm.rest_url).port or 0
            until(lambda: listens(port), "slurmrestd listens", by=process)
        elif name == "slurmctld":
            until(self._controller_is_up, "slurmctld answers", by=process)

    def _controller_is_up(self) -> bool:
        with contextlib.suppress(RuntimeError):
            return "UP" in self._slurm.command("scontrol", "ping")
        return False
