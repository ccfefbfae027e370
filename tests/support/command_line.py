"""Runs `tidegate` commands: in this process where none is needed, as a process of its own where it matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
PATIENCE_S = 110.0
"""Below the time that a test has; far more than any of these commands takes by itself."""
CLEAN = {
    f"TIDEGATE_{name}": ""
    for name in (
        "BROKER",
        "SITE",
        "TOKEN",
        "READ_TOKEN",
        "OPERATE_TOKEN",
        "GATEWAY_TOKEN",
        "SITE_SECRET",
        "KAFKA_PASSWORD",
    )
}


def tidegate(*words: str | Path, environment: Mapping[str, str] | None = None, text: str | None = None) -> Result:
    """One command in this process."""
    from cli.app import app

    given = CLEAN | dict(environment or {})
    return CliRunner().invoke(app, [str(word) for word in words], env=given, input=text, prog_name="tidegate")


def start(
    *words: str | bytes | Path, folder: Path, environment: Mapping[str, str] | None = None,
    output: int = subprocess.PIPE, errors: int = subprocess.PIPE,
) -> subprocess.Popen[str]:  # fmt: skip
    """One command as a process in ``folder``, with pipes for its output unless descriptors are given."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
        stderr=errors, text=True, env=given | {"PYTHONPATH": str(ROOT)} | dict(environment or {}),
    )  # fmt: skip


def run(*words: str | Path, folder: Path, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """(status, standard output, standard error) of one command as a process."""
    with start(*words, folder=folder, environment=environment) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


class CannedBroker:
    """Answers every request of the API with what the test says, and remembers what was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {}
        self.raw: bytes | None = None
        self.asked: list[tuple[str, str, str, Any]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[CannedBroker]:
        broker = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", "0"))
                sent = json.loads(self.rfile.read(length)) if length else None
                broker.asked.append((self.command, self.path, self.headers.get("authorization", ""), sent))
                content = broker.raw if broker.raw is not None else json.dumps(broker.body).encode()
                self.send_response(broker.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing: tests look at ``asked``."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
