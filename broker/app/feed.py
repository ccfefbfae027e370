"""The registry as it goes out: a snapshot, live changes as server-sent events, and Prometheus's form.

All of them are projections of the committed state; none is written to by anything else.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Send

from broker.app.bodies import TargetGroup
from broker.app.runtime import Runtime
from broker.control.draft import endpoint_record
from broker.model import wire
from broker.model.api import EndpointsSnapshot
from broker.model.replica import EndpointRecord
from broker.model.state import BrokerState

logger = structlog.get_logger("broker")

LEASE_INTERVAL_S = 1.0
CHANGES_KEPT = 1000
"""Changes that wait for one follower; one that is further behind is cut off."""

_SEND_TIMEOUT_S = 10.0
_KEEP_ALIVE = ": the broker is there, its steps do not go on\n\n"


def published_endpoints(state: BrokerState) -> tuple[EndpointRecord, ...]:
    """Every endpoint that gateways should know, by id: ready and draining ones."""
    records = [
        endpoint_record(replica)
        for members in state.replicas.values()
        for replica in members.values()
        if replica.published
    ]
    return tuple(sorted(records, key=lambda record: record.endpoint_id))


def declared_models(state: BrokerState) -> tuple[str, ...] | None:
    """The models of the policies in force, by name; None before the first step."""
    if state.control.site is None:
        return None
    return tuple(sorted(model_id for model_id, model in state.models.items() if not model.retired))


def lease_at(runtime: Runtime) -> float:
    """The broker's clock while its steps go on, else the time of the last one: gateways see that it moves no more."""
    return runtime.clock.now() if runtime.problem is None else runtime.last_run_at or 0.0


def endpoints_snapshot(runtime: Runtime) -> EndpointsSnapshot:
    """The body of ``GET /v1/endpoints``. ``cluster`` is empty before the first step."""
    state = runtime.core.loop.state
    cluster = state.control.site.cluster if state.control.site else ""
    published, models = published_endpoints(state), declared_models(state)
    return EndpointsSnapshot(state.control.revision, cluster, lease_at(runtime), published, models)


def prometheus_targets(state: BrokerState) -> list[TargetGroup]:
    """Prometheus ``http_sd``: one target group for each endpoint, labelled with model, replica, tier and phase."""
    return [
        TargetGroup(
            (record.url.partition("://")[2],),
            {
                "__scheme__": record.url.partition("://")[0],
                "model": record.model_id,
                "replica": record.endpoint_id,
                "tier": record.tier.value,
                "phase": record.phase.value,
            },
        )
        for record in published_endpoints(state)
    ]


class _Follower:
    """What one follower has still to be told."""

    def __init__(self) -> None:
        self.changes: deque[EndpointRecord] = deque()
        self.news = asyncio.Event()
        self.ended = False

    def tell(self, records: tuple[EndpointRecord, ...]) -> None:
        if len(self.changes) + len(records) > CHANGES_KEPT:
            self.end()
        else:
            self.changes.extend(records)
            self.news.set()

    def end(self) -> None:
        self.ended = True
        self.changes.clear()
        self.news.set()


class Feed:
    """Server-sent events for any number of followers. One that reads too slowly is cut off and must come again:
    it then starts from a snapshot, so nothing is missed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._followers: set[_Follower] = set()
        self._closed = False

    @property
    def followers(self) -> int:
        return len(self._followers)

    def close(self) -> None:
        """End every stream, and those to come: the broker stops."""
        self._closed = True
        for follower in self._followers:
            follower.end()

    async def events(self) -> AsyncGenerator[str, None]:
        """``snapshot`` first, then each ``change`` in the order of revisions, and a ``lease`` each second.

        Once told a revision a follower is never told an older one. Should the state be ahead of the changes that
        were announced (a commit's aftermath failed), or other models be declared than it was told, it is told another
        ``snapshot``.
        """
        follower = _Follower()
        stop = self._runtime.listen(follower.tell)
        self._followers.add(follower)
        loop = asyncio.get_running_loop()
        lease_due = loop.time() + LEASE_INTERVAL_S
        try:
            if self._closed:
                return
            snapshot = endpoints_snapshot(self._runtime)
            told, models = snapshot.revision, snapshot.models
            yield _event("snapshot", told, wire.encode(snapshot))
            while not follower.ended:
                follower.news.clear()
                if loop.time() >= lease_due:
                    lease_due = loop.time() + LEASE_INTERVAL_S
                    if not follower.changes and (told, models) != self._newest:
                        snapshot = endpoints_snapshot(self._runtime)
                        told, models = snapshot.revision, snapshot.models
                        yield _event("snapshot", told, wire.encode(snapshot))
                    yield self._lease(told)
                elif follower.changes:
                    record = follower.changes.popleft()
                    if record.revision > told:
                        told = record.revision
                        yield _event("change", told, {"revision": told, "endpoint": wire.encode(record)})
                else:
                    await _until(follower.news, lease_due)
        finally:
            stop()
            self._followers.discard(follower)

    def _lease(self, revision: int) -> str:
        """While steps do not go on the lease must not move, but the stream must not look dead either."""
        if self._runtime.problem is not None:
            return _KEEP_ALIVE
        return _event("lease", revision, {"revision": revision, "at": self._runtime.clock.now()})

    @property
    def _newest(self) -> tuple[int, tuple[str, ...] | None]:
        state = self._runtime.core.loop.state
        return state.control.revision, declared_models(state)


async def _until(news: asyncio.Event, deadline: float) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await news.wait()
    except TimeoutError:
        pass


def _event(name: str, revision: int, body: object) -> str:
    return f"id: {revision}\nevent: {name}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events whose source is closed however the stream ends, and whose reader must keep up."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                try:
                    async with asyncio.timeout(_SEND_TIMEOUT_S):
                        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
                except TimeoutError:
                    logger.warning("follower_cut_off", problem=f"it took nothing for {_SEND_TIMEOUT_S:g} s")
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
