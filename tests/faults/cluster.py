"""A live broker and gateway under a steady load, what is done to them, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import httpx
import psutil

from broker.app.faultpoints import VARIABLE
from broker.clock import SystemClock
from broker.log.sqlite import SqliteLog
from broker.model.ports import Log
from cli.demo.load import LoadPlayer
from cli.demo.stack import Stack, StackError
from cli.demo.verdict import replay_problem
from simulator.report.summary import Outcome
from tests.support.ports import free_port
from traces.schema import TraceRequest

MODEL_ID = "chat"
ENDED = ("gone", "failed")
REQUESTS_PER_S = 5.0
SQLITE = "kind: sqlite, path: tidegate.sqlite"
OUTPUT_TOKENS = 50
"""About 1.7 s at the demo profile's pace: some eight streams are open at any time."""

C = TypeVar("C", bound="Cluster")

_numbers = itertools.count(1)
_POLL_S = 0.1


def site_yaml(cluster: str, port: int, *, extra: str = "", log: str = SQLITE) -> str:
    return f"""\
cluster: {cluster}
pools:
  local: {{kind: local, gpus: 4, state_dir: replicas, log_dir: log}}
log: {{{log}}}
api: {{port: {port}}}
scrape: {{interval: 1s, timeout: 1s}}
{extra}
"""


def policies_yaml(*, arguments: str = "", load_timeout: str = "30s", drain_limit: str = "30s") -> str:
    """A model whose policy never wants anything: the target is what the test's overrides say."""
    return f"""\
models:
  {MODEL_ID}:
    engine:
      command: ["{{python}}", "-m", "simulator.emulator", "--model", "{{model}}", "--host", "{{host}}",
                "--port", "{{port}}", "--profile", "demo", "--load-time", "0.3s", "--shutdown-timeout", "30"{arguments}]
    min: 1
    max: 3
    drain_limit: {drain_limit}
    load_timeout: {load_timeout}
    policy: {{kind: threshold, rules: [{{name: never, signal: queue_age_s, above: 1h, for: 1h, change: +1}}]}}
"""


class Cluster:
    """One stack of its own. ``running`` starts and ends it; the rest is what tests do to it."""

    def __init__(
        self, folder: Path, *, site: str | None = None, policies: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        name = f"faults-{os.getpid()}-{next(_numbers)}"
        site = site or site_yaml(name, free_port())
        if named := re.search(r"^cluster: (\S+)", site, re.MULTILINE):
            name = named[1]
        self._environment = dict(environment or {})
        self.stack = Stack(folder, site, policies or policies_yaml(), (MODEL_ID,), name, environment=self._environment)
        self.brokers = 0
        self.log_path = folder / "tidegate.sqlite"

    # -- processes

    async def start_broker(self, point: str = "") -> bool:
        """Whether it came up; one that is to die at ``point`` may have died before that."""
        self.stack.environment = self._environment | {VARIABLE: point}
        return await self._comes_up(self.stack.start_broker)

    async def _comes_up(self, start: Callable[[], None]) -> bool:
        self.brokers += 1
        try:
            await asyncio.to_thread(start)
        except StackError:
            if self.stack.broker is None or self.stack.broker.poll() != -9:
                raise
            return False
        return True

    async def end(self) -> None:
        """Every process, replicas included."""
        await asyncio.to_thread(self.stack.stop)

    async def start_gateway(self) -> None:
        await asyncio.to_thread(self.stack.start_gateway)

    async def kill_broker(self) -> None:
        await asyncio.to_thread(self.stack.stop_process, self.stack.broker, kill=True)

    async def stop_broker(self) -> int:
        """Its exit status after SIGTERM."""
        assert self.stack.broker is not None
        await asyncio.to_thread(self.stack.stop_process, self.stack.broker)
        return self.stack.broker.returncode

    async def second_broker(self) -> subprocess.CompletedProcess[str]:
        """Another broker on the same files, which is expected to refuse to start."""
        command = [sys.executable, "-m", "cli", "run", "--site", "site.yaml", "--policies", "policies.yaml"]
        environment = os.environ | self._environment | self.stack.secrets
        return await asyncio.to_thread(
            subprocess.run, command, cwd=self.stack.folder, env=environment, capture_output=True, text=True, timeout=60
        )

    def broker_dead(self) -> bool:
        return self.stack.broker is None or self.stack.broker.poll() is not None

    async def broker_died(self) -> None:
        """Wait for a broker that killed itself."""
        assert self.stack.broker is not None
        status = await asyncio.to_thread(self.stack.broker.wait, 10)
        assert status == -9, self.stack.log_tail("broker")

    def opened_log(self) -> Log:
        """To read; whoever asks closes it."""
        return SqliteLog(self.log_path)

    # -- asking and ordering

    async def get(self, path: str, **parameters: Any) -> Any:
        async with self.operator() as client:
            return (await client.get(path, params=parameters)).json()

    def operator(self, scope: str = "OPERATE") -> httpx.AsyncClient:
        """A client of the broker's API with the token of that scope."""
        headers = {"Authorization": f"Bearer {self.stack.secrets[f'TIDEGATE_{scope}_TOKEN']}"}
        return httpx.AsyncClient(base_url=self.stack.broker_url, headers=headers, timeout=10.0, trust_env=False)

    async def replicas(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.get("/v1/replicas", model=MODEL_ID))["replicas"]
        return found

    async def model(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get("/v1/models"))["models"][0]
        return found

    async def scale(self, target: int) -> None:
        body = {"model_id": MODEL_ID, "target": target, "for_s": 3600, "because": "a test", "author": "tests"}
        async with self.operator() as client:
            (await client.post("/v1/overrides", json=body)).raise_for_status()

    async def until(self, holds: Callable[[list[dict[str, Any]]], object], timeout_s: float = 40.0) -> Any:
        """The first true value of ``holds`` over the replicas' records."""
        deadline = time.monotonic() + timeout_s
        replicas: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                replicas = await self.replicas()
                if found := holds(replicas):
                    return found
            await asyncio.sleep(_POLL_S)
        shown = [(r["replica_id"], r["phase"], r["detail"]) for r in replicas]
        raise AssertionError(f"not within {timeout_s:g} s: {shown}\n{self.stack.log_tail('broker')}")

    async def settled(self, count: int, timeout_s: float = 40.0) -> None:
        """Until exactly ``count`` replicas are left and all of them serve."""

        def holds(replicas: list[dict[str, Any]]) -> bool:
            phases = [replica["phase"] for replica in replicas if replica["phase"] not in ENDED]
            return phases == ["ready"] * count

        await self.until(holds, timeout_s)

    # -- what must hold

    def processes(self) -> Counter[str]:
        """Living processes by the replica whose identity they carry."""
        found: Counter[str] = Counter()
        for process in self.stack.replica_processes():
            with contextlib.suppress(psutil.Error, OSError):
                found[process.environ()["TIDEGATE_REPLICA_ID"]] += 1
        return found

    async def no_orphan_no_double(self) -> None:
        """Every process is the one process of a record; no action ever had a second one."""
        living = {r["replica_id"] for r in await self.replicas() if r["phase"] not in ENDED}
        assert self.processes() == Counter(living), "processes and records differ"
        for path in (self.stack.folder / "log").glob("*.log"):
            starts = path.read_text().count("emulator_loading")
            assert starts <= 1, f"{path.stem} was started {starts} times"

    async def the_log_tells_one_story(self) -> None:
        """Epochs, revisions and generations go on across brokers, and a replay decides the same."""
        epochs, revisions, names = [], [], set()
        async with contextlib.AsyncExitStack() as stack:
            log = self.opened_log()
            stack.push_async_callback(log.close)
            problem, steps = await replay_problem(log)
            assert problem is None
            assert steps
            async for record in log.steps():
                epochs.append(record.epoch)
                revisions += [endpoint.revision for endpoint in record.registry]
                names |= {key for (kind, key), _ in record.changes.items() if kind == "replica"}
        assert epochs == sorted(epochs)
        assert set(epochs) <= set(range(1, self.brokers + 1))
        assert revisions == list(range(1, len(revisions) + 1))
        generations = [int(name.rpartition("-g")[2]) for name in names]
        assert sorted(generations) == list(range(1, len(names) + 1)), "a generation was used twice, or left out"

    def no_traceback(self) -> None:
        """In no log of broker, gateway and replicas."""
        for path in (*self.stack.folder.glob("*.log"), *(self.stack.folder / "log").glob("*.log")):
            text = path.read_text(errors="replace")
            assert "Traceback" not in text, f"{path}: {text[max(0, text.find('Traceback') - 300) :][:3000]}"

    def broker_log(self) -> str:
        return (self.stack.folder / "broker.log").read_text(errors="replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the broker's log with that event."""
        rows = [json.loads(line) for line in self.broker_log().splitlines() if line.startswith("{")]
        return [row for row in rows if row.get("event") == event]


@contextlib.asynccontextmanager
async def brought_up(made: C, *, gateway: bool = True, ready: int = 1) -> AsyncIterator[C]:
    """Its processes run within the block, and are ended whatever happens."""
    made.stack.write_files()
    try:
        await made.start_broker()
        if gateway:
            await made.start_gateway()
        if ready:
            await made.settled(ready)
        yield made
    finally:
        await made.end()


def cluster(
    folder: Path, *, site: str | None = None, policies: str | None = None, gateway: bool = True, ready: int = 1
) -> contextlib.AbstractAsyncContextManager[Cluster]:
    """A running cluster, ended whatever happens."""
    return brought_up(Cluster(folder, site=site, policies=policies), gateway=gateway, ready=ready)


class Load:
    """Streams at a steady rate until told to stop."""

    def __init__(self, player: LoadPlayer) -> None:
        self.player = player
        self._over = False

    def requests(self) -> Iterator[TraceRequest]:
        for index in itertools.count():
            if self._over:
                return
            yield TraceRequest(index / REQUESTS_PER_S, 40, OUTPUT_TOKENS)

    def stop(self) -> None:
        self._over = True

    def outcomes(self) -> Counter[str]:
        return Counter(str(outcome.status) for outcome in self.player.outcomes)

    def all_finished(self) -> None:
        """No request failed, was refused or cut."""
        assert self.player.sent > 0
        assert self.outcomes() == Counter({str(Outcome.FINISHED): self.player.sent}), self.player.problems


@contextlib.asynccontextmanager
async def load(to: Cluster) -> AsyncIterator[Load]:
    """Streams for the length of the block; at its end every one of them has ended by itself."""
    timeout = aiohttp.ClientTimeout(total=90.0)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout, trust_env=False
    ) as session:
        made = Load(LoadPlayer(session, to.stack.gateway_url, MODEL_ID))
        playing = asyncio.create_task(made.player.play(made.requests(), SystemClock().now))
        try:
            yield made
            made.stop()
            await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
