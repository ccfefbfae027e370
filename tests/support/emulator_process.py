"""Start an emulated replica as a real process on a port of the system's choice, and end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.shared_data import REPOSITORY
from tests.support.waiting import until


@dataclass(frozen=True)
class EmulatorProcess:
    process: subprocess.Popen[bytes]
    log_path: Path
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def wait_until_healthy(self, timeout_s: float = 20.0) -> None:
        _wait(self.healthy, self.process, self.log_path, timeout_s, "it answers /health")

    def wait_for_exit(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()


@contextmanager
def emulator(
    *arguments: str, model: str = "chat", environment: Mapping[str, str] | None = None, wait: bool = True
) -> Iterator[EmulatorProcess]:
    """``python -m simulator.emulator`` with ``arguments``, healthy unless not to ``wait``; killed at the end."""
    command = [sys.executable, "-m", "simulator.emulator", "--model", model, "--port", "0", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    variables |= {"PYTHONPATH": str(REPOSITORY), **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "emulator.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables)
        try:
            _wait(lambda: _bound(log_path) is not None, process, log_path, 20.0, "it tells its port")
            host, port = _bound(log_path) or ("", 0)
            started = EmulatorProcess(process, log_path, host, port)
            if wait:
                started.wait_until_healthy()
            yield started
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(20)


def _bound(log_path: Path) -> tuple[str, int] | None:
    for line in log_path.read_text().splitlines():
        if '"emulator_loading"' in line:
            event = json.loads(line)
            return event["host"], event["port"]
    return None


def _wait(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], log_path: Path, timeout_s: float, what: str
) -> None:
    try:
        until(condition, what, timeout_s, by=process)
    except AssertionError as error:
        error.add_note(log_path.read_text())
        raise
