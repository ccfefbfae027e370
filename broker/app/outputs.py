"""The registry as a JSON file, for whatever cannot follow the API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import structlog

from broker.app.feed import endpoints_snapshot
from broker.app.runtime import Runtime
from broker.model import wire
from broker.model.replica import EndpointRecord

logger = structlog.get_logger("broker")

RETRY_S = 5.0


class EndpointsFile:
    """Replaced whole after every change: a reader sees the old file or the new one."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self._path = path
        self._runtime = runtime
        self._changed = asyncio.Event()
        self._problem = ""

    async def run(self) -> None:
        """For ever: write at the start and after every change; again and again while the disk refuses."""
        stop = self._runtime.listen(self._note)
        try:
            while True:
                self._changed.clear()
                text = json.dumps(wire.encode(endpoints_snapshot(self._runtime)), indent=2) + "\n"
                if await self._write(text):
                    await self._changed.wait()
                else:
                    await self._runtime.clock.sleep_until(self._runtime.clock.now() + RETRY_S)
        finally:
            stop()

    def _note(self, _: tuple[EndpointRecord, ...]) -> None:
        self._changed.set()

    async def _write(self, text: str) -> bool:
        try:
            await asyncio.to_thread(_replace, self._path, text)
        except OSError as error:
            problem = error.strerror or str(error)
            if problem != self._problem:
                logger.error("endpoints_file_failed", path=str(self._path), problem=problem, retry_s=RETRY_S)
            self._problem = problem
            return False
        if self._problem:
            logger.info("endpoints_file_written", path=str(self._path))
        self._problem = ""
        return True


def _replace(path: Path, text: str) -> None:
    """One broker leads, so one name for the unfinished file is enough, and a crash leaves no more than one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
