"""Where Slurm's commands run: as child processes here, or (``ssh``) on another machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.model.errors import ActionRejected, TransientError

SETTINGS = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
"""For every command: words that our table knows, and times as seconds since the epoch, which no time zone, no summer
time and no site's format changes."""

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "KRB5CCNAME", "SLURM_CONF", "SLURM_CONF_SERVER")
"""All that is: sbatch hands its environment to the job, and the broker's holds secrets; ``SQUEUE_STATES`` and the like
would change what we ask for."""


class Unfinished(TransientError):
    """The command was begun, and nobody can tell how it ended."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended; its words are decoded, with a replacement where they are not UTF-8."""

    status: int
    output: str
    errors: str


class Runner(Protocol):
    """Runs one of Slurm's commands at a time or several."""

    @property
    def where(self) -> str:
        """For errors: ``Slurm's commands on login1``."""
        ...

    async def run(self, arguments: Sequence[str], given: str = "", *, timeout_s: float) -> Finished:
        """With ``given`` as its standard input. Raises ``TransientError`` if it could not be begun,
        ``Unfinished`` if it was and did not end within ``timeout_s`` (it is ended then) or its end was not seen, and
        ``ActionRejected`` if it is not there or may not be run."""
        ...

    async def close(self) -> None: ...


class LocalRunner:
    """Child processes of this machine, each in a session of its own, ended with all it started at its time-out."""

    def __init__(self, inherited: Mapping[str, str] | None = None) -> None:
        environ = os.environ if inherited is None else inherited
        self._environment = {name: environ[name] for name in INHERITED if name in environ} | SETTINGS

    @property
    def where(self) -> str:
        return "Slurm's commands on this machine"

    async def run(self, arguments: Sequence[str], given: str = "", *, timeout_s: float) -> Finished:
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError):
            raise ActionRejected(
                f"there is no command {arguments[0]} on this machine for this user: install Slurm's commands "
                "(slurm-client), put them on PATH, or use slurmrestd or SSH"
            ) from None
        except OSError as error:
            raise TransientError(f"{arguments[0]} cannot be started on this machine: {error}") from error
        try:
            async with asyncio.timeout(timeout_s):
                output, errors = await process.communicate(given.encode())
        except TimeoutError:
            raise Unfinished(
                f"{arguments[0]} did not end within {timeout_s:g} s on this machine and was ended; slurmctld may be "
                "overloaded: see `sdiag`",
                retry_after_s=timeout_s,
            ) from None
        finally:
            await _end(process)
        return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))

    async def close(self) -> None:
        """Nothing is held."""


async def _end(process: asyncio.subprocess.Process) -> None:
    """The process and what it started, if it still runs; also when we are cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
