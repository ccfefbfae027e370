"""A broker and a gateway as processes of their own, with emulated replicas, in a folder of their own.

Also what the fault tests start: they kill these processes and look at what is left.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from broker.model.errors import TidegateError

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0


class StackError(TidegateError):
    """A process of the stack did not come up, or went away; the message quotes the end of its log."""


@dataclass
class Stack:
    """``folder`` holds the files, logs and state. ``site`` and ``policies`` are the texts of the YAML files."""

    folder: Path
    site: str
    policies: str
    model_ids: tuple[str, ...]
    cluster: str
    environment: Mapping[str, str] = field(default_factory=dict)
    broker_url: str = ""
    gateway_url: str = ""
    broker: subprocess.Popen[bytes] | None = None
    gateway: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "site.yaml").write_text(self.site)
        (self.folder / "policies.yaml").write_text(self.policies)
        names = ("READ_TOKEN", "OPERATE_TOKEN", "GATEWAY_TOKEN", "SITE_SECRET")
        self.secrets = {f"TIDEGATE_{name}": secrets.token_hex(24) for name in names}

    def client(self) -> httpx.Client:
        """A client of the broker's API that may operate."""
        headers = {"Authorization": f"Bearer {self.secrets['TIDEGATE_OPERATE_TOKEN']}"}
        return httpx.Client(base_url=self.broker_url, headers=headers, timeout=10.0, trust_env=False)

    def start_broker(self, *arguments: str) -> None:
        self.broker = self.spawn_broker("broker.address", *arguments)
        self.await_broker("broker.address")

    def spawn_broker(self, address: str, *arguments: str, site: str = "site.yaml") -> subprocess.Popen[bytes]:
        """A broker that may have to stand by; once it leads and answers, it says where in the file ``address``."""
        (self.folder / address).unlink(missing_ok=True)
        command = ["-m", "cli", "run", "--site", site, "--policies", "policies.yaml", "--address-file", address]
        return self._spawn("broker", [*command, *arguments])

    def await_broker(self, address: str) -> None:
        """Until ``self.broker`` answers. Raises ``StackError``."""
        assert self.broker is not None
        self.broker_url = self._await_address("broker", self.broker, self.folder / address)

    def start_gateway(self) -> None:
        address = self.folder / "gateway.address"
        address.unlink(missing_ok=True)
        models = [word for model_id in self.model_ids for word in ("--model", model_id)]
        command = [
            "-m", "cli", "gateway", "--site", "site.yaml", "--broker", self.broker_url, "--port", "0",
            "--id", "demo-gateway", "--address-file", str(address), *models,
        ]  # fmt: skip
        self.gateway = self._spawn("gateway", command)
        self.gateway_url = self._await_address("gateway", self.gateway, address)

    def start_worker(self) -> None:
        self.workers.append(self._spawn("worker", ["-m", "cli", "worker", "--site", "site.yaml"]))

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        environment = os.environ | self.secrets | dict(self.environment)
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def _await_address(self, name: str, process: subprocess.Popen[bytes], address: Path) -> str:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if address.exists() and (text := address.read_text().strip()):
                return text
            if process.poll() is not None:
                raise StackError(f"the {name} ended with status {process.returncode}:\n{self.log_tail(name)}")
            time.sleep(0.05)
        raise StackError(f"the {name} was not ready within {_READY_TIMEOUT_S:g} s:\n{self.log_tail(name)}")

    def log_tail(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-15:]) if path.exists() else "(no log)"

    def stop_process(self, process: subprocess.Popen[bytes] | None, *, kill: bool = False) -> None:
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def replica_processes(self) -> list[psutil.Process]:
        """Every process of this stack's cluster, told by its environment: what is not ours is never looked at."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TIDEGATE_CLUSTER") == self.cluster:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def stop(self) -> None:
        """End everything that was started, replicas included."""
        self.stop_process(self.gateway)
        self.stop_process(self.broker)
        for worker in self.workers:
            self.stop_process(worker)
        for process in self.replica_processes():
            try:
                process.kill()
                process.wait(5)
            except psutil.Error:
                continue

    async def wait_ready(self, model_id: str, count: int) -> None:
        """Until ``count`` replicas of the model are ready."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        with self.client() as client:
            while time.monotonic() < deadline:
                ready = sum(replica["phase"] == "ready" for replica in self.replicas(client, model_id))
                if ready >= count:
                    return
                if self.broker is not None and self.broker.poll() is not None:
                    raise StackError(f"the broker ended:\n{self.log_tail('broker')}")
                await asyncio.sleep(0.1)
        raise StackError(f"{count} replicas were not ready within {_READY_TIMEOUT_S:g} s:\n{self.log_tail('broker')}")

    def replicas(self, client: httpx.Client, model_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get("/v1/replicas", params={"model": model_id}).json()["replicas"]
        return found
