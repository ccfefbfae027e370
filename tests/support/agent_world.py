"""A node agent as a real process, an engine below it, and a real broker's API above it, all on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

import actuators.slurm
from broker.model.agents import AgentPhase, AgentReport
from broker.model.identity import action_id, endpoint_key, metrics_key, registration_token
from tests.support.api_world import SITE_SECRET, ApiWorld, api_world
from tests.support.ports import free_port
from tests.support.shared_data import REPOSITORY
from tests.support.waiting import eventually

AGENT = Path(actuators.slurm.__file__).with_name("agent.py")
ACTION = action_id("launch", "demo", "chat", 0, 1)
TOKEN = registration_token(SITE_SECRET, ACTION)
ENDPOINT_KEY = endpoint_key(SITE_SECRET, "chat-0-g1", 1)
METRICS_KEY = metrics_key(SITE_SECRET, "chat-0-g1", 1)
PYTHON = os.environ.get("TIDEGATE_AGENT_PYTHON", sys.executable)
"""What runs the agent: set it to an older interpreter to see that the agent runs on what compute nodes have."""

EMULATOR = (
    sys.executable, "-m", "simulator.emulator", "--model", "chat", "--host", "{host}", "--port", "{port}",
    "--load-time", "0.2s", "--shutdown-timeout", "20",
)  # fmt: skip


class _Server(uvicorn.Server):
    """Without its signal handlers, which are the test's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ServedBroker:
    """A broker's API on a port of loopback, that can go away and another come in its place."""

    def __init__(self) -> None:
        self.port = free_port()
        self._away: contextlib.AsyncExitStack | None = None
        self.world: ApiWorld

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def come(self) -> None:
        self._away = contextlib.AsyncExitStack()
        self.world = await self._away.enter_async_context(api_world())
        config = uvicorn.Config(
            self.world.app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = _Server(config)
        task = asyncio.create_task(server.serve())

        async def end() -> None:
            server.should_exit = True
            await task

        self._away.push_async_callback(end)
        await eventually(lambda: server.started, "the broker's API is served")

    async def go(self) -> None:
        if self._away is not None:
            stack, self._away = self._away, None
            await stack.aclose()

    @property
    def heard(self) -> AgentReport | None:
        return self.world.agents.latest(ACTION)

    async def hears(self, holds: Callable[[AgentReport], Any], what: str) -> AgentReport:
        def found() -> AgentReport | None:
            return self.heard if self.heard is not None and holds(self.heard) else None

        return await eventually(found, what)

    async def hears_phase(self, phase: AgentPhase) -> AgentReport:
        return await self.hears(lambda report: report.phase is phase, f"the agent is {phase}")


@asynccontextmanager
async def served_broker() -> AsyncIterator[ServedBroker]:
    broker = ServedBroker()
    await broker.come()
    try:
        yield broker
    finally:
        await broker.go()


class AgentProcess:
    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def engine_pid(self) -> int:
        """Of the engine's main process, once there is one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, limit_s: float = 40.0) -> int:
        await eventually(lambda: self.process.poll() is not None, "the agent ends", limit_s)
        return int(self.process.returncode)


@contextmanager
def agent(
    broker_url: str,
    folder: Path,
    command: Sequence[str] = EMULATOR,
    *,
    token: str = TOKEN,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[AgentProcess]:
    """The agent as a job's script runs it: its source by standard input, its settings and token by environment."""
    told = {
        "broker_url": broker_url, "action_id": ACTION, "cluster": "demo", "model_id": "chat", "ordinal": 0,
        "generation": 1, "load_timeout_s": 30, "stop_grace_s": 15,
    } | settings  # fmt: skip
    variables = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TIDEGATE_AGENT": json.dumps(told),
        "TIDEGATE_AGENT_TOKEN": token,
        "SLURMD_NODENAME": "n1",
        "SLURM_JOB_ID": "4711",
        **(environment or {}),
    }
    log_path = folder / "job.log"
    with AGENT.open("rb") as source, log_path.open("ab") as log:
        process = subprocess.Popen(
            [PYTHON, "-I", "-S", "-", *command], stdin=source, stdout=log, stderr=log, env=variables
        )
    started = AgentProcess(process, log_path)
    try:
        yield started
    finally:
        if process.poll() is None:
            engines = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            process.kill()
            for pid in engines:  # each ends with its agent; what is tested must not be relied on to clean up
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        process.wait(20)


def command_line(pid: int) -> list[str]:
    """As a process list shows it; empty for what is gone."""
    return _zero_ended(pid, "cmdline")


def environment_of(pid: int) -> str:
    return "\n".join(_zero_ended(pid, "environ"))


def _zero_ended(pid: int, name: str) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/{name}").read_bytes().decode()
    except FileNotFoundError:
        return []
    return text.rstrip("\0").split("\0") if text else []


def there(path: str) -> bool:
    return os.path.exists(path)


async def get(url: str, key: str | None = None) -> tuple[int, str]:
    """(status, body)."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=20)) as answer,
    ):
        return answer.status, await answer.text()
