"""The registry as it goes out: a snapshot, live changes as server-sent events, and two forms other tools read.

All of them are projections of the committed state; none is written to by anything else.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog

from broker.app.runtime import Runtime
from broker.control.draft import endpoint_record
from broker.model import wire
from broker.model.replica import EndpointRecord
from broker.model.state import BrokerState

logger = structlog.get_logger("broker")

_LEASE_INTERVAL_S = 1.0
_QUEUE_LIMIT = 1000


def published_endpoints(state: BrokerState) -> list[EndpointRecord]:
    """Every endpoint that gateways should know, by id: ready and draining ones."""
    records = [
        endpoint_record(replica)
        for members in state.replicas.values()
        for replica in members.values()
        if replica.published
    ]
    return sorted(records, key=lambda record: record.endpoint_id)


def snapshot_body(state: BrokerState, now: float) -> dict[str, Any]:
    """The body of ``GET /v1/endpoints``."""
    return {
        "revision": state.control.revision,
        "cluster": state.control.site.cluster if state.control.site else "",
        "at": now,
        "endpoints": [wire.encode(record) for record in published_endpoints(state)],
    }


def prometheus_targets(state: BrokerState) -> list[dict[str, Any]]:
    """Prometheus ``http_sd``: one target group for each endpoint, labelled with model, replica, tier and phase."""
    return [
        {
            "targets": [record.url.removeprefix("http://").removeprefix("https://")],
            "labels": {
                "model": record.model_id,
                "replica": record.endpoint_id,
                "tier": record.tier.value,
                "phase": record.phase.value,
            },
        }
        for record in published_endpoints(state)
    ]


class Feed:
    """Server-sent events for any number of followers. One that reads too slowly is cut off and must come again:
    it then starts from a snapshot, so nothing is missed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def events(self) -> AsyncIterator[str]:
        """``snapshot`` first, then ``change`` for every change and ``lease`` each second, until the follower leaves or
        the broker stops."""
        queue: asyncio.Queue[EndpointRecord] = asyncio.Queue(_QUEUE_LIMIT)
        overflow = asyncio.Event()

        def enqueue(records: tuple[EndpointRecord, ...]) -> None:
            for record in records:
                if queue.full():
                    overflow.set()
                    return
                queue.put_nowait(record)

        stop = self._runtime.listen(enqueue)
        try:
            body = snapshot_body(self._state, self._runtime.clock.now())
            yield _event("snapshot", body["revision"], body)
            while not overflow.is_set() and not self._runtime.stopping.is_set():
                try:
                    async with asyncio.timeout(_LEASE_INTERVAL_S):
                        record = await queue.get()
                except TimeoutError:
                    revision = self._state.control.revision
                    if self._runtime.log_problem is None:
                        yield _event("lease", revision, {"revision": revision, "at": self._runtime.clock.now()})
                    continue
                change = {"revision": record.revision, "endpoint": wire.encode(record)}
                yield _event("change", record.revision, change)
        finally:
            stop()

    @property
    def _state(self) -> BrokerState:
        return self._runtime.core.loop.state


def _event(name: str, revision: int, body: object) -> str:
    return f"id: {revision}\nevent: {name}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n"


class EndpointsFile:
    """The registry as a JSON file, replaced whole on every change: a reader sees the old file or the new one."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self._path = path
        self._runtime = runtime

    def write(self, _: tuple[EndpointRecord, ...] = ()) -> None:
        """Write the present registry. A disk that refuses is reported and tried again at the next change."""
        body = snapshot_body(self._runtime.core.loop.state, self._runtime.clock.now())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump(body, stream, indent=2)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, self._path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            logger.error("endpoints_file_failed", path=str(self._path), problem=str(error))
