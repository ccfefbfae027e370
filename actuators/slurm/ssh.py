"""Slurm's commands on another machine, over one kept SSH connection."""

from __future__ import annotations

import asyncio
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import structlog

from actuators.slurm.runner import SETTINGS, Finished, Unfinished
from broker.model.errors import ActionRejected, ActuatorError, ConfigError, TransientError

if TYPE_CHECKING:
    import asyncssh

log = structlog.get_logger(__name__)

CONNECT_WITHIN_S = 15.0
KEEPALIVE_S = 15.0
AT_ONCE = 8
"""sshd allows ten sessions on a connection (``MaxSessions``)."""
GRACE_S = 3.0
"""Between a command's end by its own time-out, over there, and ours."""


@dataclass(frozen=True, slots=True)
class Login:
    """``known_hosts`` holds the host's key, without which nothing is sent; ``keys`` are private key files, and the
    user's own and their agent's where there are none."""

    host: str
    user: str
    known_hosts: Path
    port: int = 22
    keys: tuple[Path, ...] = ()


class SshRunner:
    """A ``Runner`` on ``login.host``. The connection is opened by the first command and again after it was lost.
    Raises ``ConfigError`` where asyncssh is not installed."""

    def __init__(self, login: Login) -> None:
        self._ssh = _asyncssh()
        self._login = login
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._sessions = asyncio.Semaphore(AT_ONCE)

    @property
    def where(self) -> str:
        return f"Slurm's commands on {self._login.host} (SSH as {self._login.user})"

    async def run(self, arguments: Sequence[str], given: str = "", *, timeout_s: float) -> Finished:
        async with self._sessions:
            connection = await self._connected()
            try:
                async with asyncio.timeout(timeout_s + GRACE_S):
                    done = await connection.run(command_line(arguments, timeout_s), input=given.encode(), encoding=None)
            except TimeoutError:
                self._drop(connection)
                raise Unfinished(
                    f"{arguments[0]} did not end within {timeout_s:g} s on {self._login.host}; slurmctld or the "
                    "machine may be overloaded: see `sdiag` there",
                    retry_after_s=timeout_s,
                ) from None
            except self._ssh.ChannelOpenError as error:
                self._drop(connection)
                raise TransientError(f"{self._login.host} opens no session for {arguments[0]}: {error}") from error
            except (self._ssh.Error, OSError) as error:
                self._drop(connection)
                raise Unfinished(f"the connection to {self._login.host} was lost in {arguments[0]}: {error}") from error
        if done.exit_status is None or done.exit_signal is not None:
            raise Unfinished(f"nobody saw the end of {arguments[0]} on {self._login.host}")
        return self._judged(arguments[0], timeout_s, Finished(done.exit_status, _text(done.stdout), _text(done.stderr)))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.wait_closed()

    def _judged(self, command: str, timeout_s: float, done: Finished) -> Finished:
        if done.status in (124, 137):
            raise Unfinished(
                f"{command} did not end within {timeout_s:g} s on {self._login.host} and was ended; slurmctld may be "
                "overloaded: see `sdiag` there",
                retry_after_s=timeout_s,
            )
        if done.status in (126, 127):
            raise ActionRejected(
                f"{command} cannot be run on {self._login.host}: {done.errors.strip()[:300]}; put Slurm's commands on "
                f"the PATH of non-interactive shells of {self._login.user}, or allow it in the forced command"
            )
        return done

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
                log.info("ssh_connected", host=self._login.host, user=self._login.user)
            return self._connection

    async def _connect(self) -> asyncssh.SSHClientConnection:
        login = self._login
        if not await asyncio.to_thread(login.known_hosts.is_file):
            raise ActionRejected(
                f"the key of {login.host} cannot be checked: there is no file {login.known_hosts}; write it with "
                f"`ssh-keyscan -p {login.port} {login.host}` and compare the key with what the site publishes"
            )
        try:
            connection: asyncssh.SSHClientConnection = await self._ssh.connect(
                login.host, login.port, username=login.user, known_hosts=str(login.known_hosts), config=[],
                client_keys=[str(key) for key in login.keys] if login.keys else (), login_timeout=CONNECT_WITHIN_S,
                connect_timeout=CONNECT_WITHIN_S, keepalive_interval=KEEPALIVE_S,
            )  # fmt: skip
        except (self._ssh.Error, OSError, ValueError) as error:
            raise self._not_connected(error) from error
        return connection

    def _not_connected(self, error: Exception) -> ActuatorError:
        login = self._login
        if isinstance(error, self._ssh.HostKeyNotVerifiable):
            return ActionRejected(
                f"{login.host} shows a key that {login.known_hosts} does not have ({error}): nothing was sent; if the "
                "site has changed its key, compare it with what the site publishes and mend the file"
            )
        if isinstance(error, self._ssh.PermissionDenied):
            return ActionRejected(
                f"{login.host} does not let {login.user} in ({error}): add the public key to its authorized_keys there"
            )
        if isinstance(error, self._ssh.KeyImportError | FileNotFoundError | PermissionError):
            return ActionRejected(
                f"a private key for {login.host} cannot be read: {error}; mend its path or its rights"
            )
        said = str(error) or type(error).__name__
        return TransientError(f"{login.host}, port {login.port}, cannot be reached: {said}", retry_after_s=5.0)

    def _drop(self, connection: asyncssh.SSHClientConnection) -> None:
        """The next command connects anew; others on this connection learn that it is gone."""
        connection.abort()
        if self._connection is connection:
            self._connection = None


def _asyncssh() -> ModuleType:
    """asyncssh is an extra: only this transport needs it."""
    try:
        import asyncssh
    except ImportError:
        raise ConfigError("Slurm's commands over SSH need asyncssh: pip install 'tidegate[slurm]'") from None
    return asyncssh


def command_line(arguments: Sequence[str], timeout_s: float) -> str:
    """For the login's shell, or the forced command, there. ``timeout`` ends what we cannot: without a terminal a
    command outlives its session."""
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    return shlex.join(["env", *settings, "timeout", "--kill-after=2", str(math.ceil(timeout_s)), *arguments])


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")
