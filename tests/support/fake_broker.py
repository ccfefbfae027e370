"""The part of the broker's HTTP API that gateways use, as a real server without anything behind it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from broker.model.replica import EndpointRecord, ReplicaPhase
from broker.model.signals import RequestSummary
from broker.model.wire import decode, encode
from tests.support.serving import Served

GATEWAY_TOKEN = "token of the test gateways"


class FakeBroker(Served):
    """A registry that tests change by hand, every report that gateways made, and what they ``measured``.

    ``streaming`` False refuses the event stream, ``garbled`` makes answers unreadable, ``taking_reports`` False
    answers them with 503, ``lease_moves`` False repeats the same lease time. Without ``models`` it does not say which
    models are declared, as brokers of 0.1 do not. ``lose`` makes a change that is kept
    out of open streams.
    """

    def __init__(self, cluster: str = "test", lease_every_s: float = 0.05) -> None:
        super().__init__()
        self.cluster = cluster
        self.revision = 0
        self.records: dict[str, EndpointRecord] = {}
        self.reports: list[dict[str, Any]] = []
        self.measured: list[Any] = []
        self.streaming = True
        self.garbled = False
        self.taking_reports = True
        self.lease_moves = True
        self.models: list[str] | None = None
        self.snapshots_served = 0
        self.streams_opened = 0
        self._lease_every_s = lease_every_s
        self._at = 1_000.0
        self._streams: set[asyncio.Queue[bytes]] = set()

    def publish(self, record: EndpointRecord) -> int:
        """Make ``record`` the newest of its endpoint; the revision that did."""
        self.revision += 1
        record = replace(record, revision=self.revision)
        self.records[record.endpoint_id] = record
        change = {"revision": self.revision, "endpoint": encode(record)}
        self._send("change", change)
        return self.revision

    def move(self, endpoint_id: str, phase: ReplicaPhase) -> int:
        return self.publish(replace(self.records[endpoint_id], phase=phase))

    def declare(self, *models: str) -> None:
        """The policies name these models: told in another snapshot, as the broker does."""
        self.models = list(models)
        self._send("snapshot", self._body())

    def lose(self, record: EndpointRecord) -> int:
        streams, self._streams = self._streams, set()
        revision = self.publish(record)
        self._streams = streams
        return revision

    def begin_anew(self, *records: EndpointRecord, cluster: str | None = None) -> None:
        """What a broker does that lost its log: revisions from the beginning, no streams."""
        self.cluster = cluster or self.cluster
        self.revision = 0
        self.records = {}
        for stream in list(self._streams):
            stream.put_nowait(b"")
        self._streams = set()
        for record in records:
            self.publish(record)

    def summaries(self, model_id: str = "chat") -> list[RequestSummary]:
        """Every summary of a model, repeated ones once, in order."""
        unique = {}
        for data in self.measured:
            summary: RequestSummary = decode(RequestSummary, data)
            if summary.model_id == model_id:
                unique[(summary.gateway_id, summary.boot_id, summary.sequence)] = summary
        return list(unique.values())

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v1/endpoints", self._snapshot)
        application.router.add_get("/v1/endpoints/stream", self._stream)
        application.router.add_put("/v1/gateways/{id}", self._report)
        return application

    def _send(self, kind: str, data: object) -> None:
        for stream in self._streams:
            stream.put_nowait(self._event(kind, data))

    def _event(self, kind: str, data: object) -> bytes:
        text = "}{" if self.garbled else json.dumps(data)
        return f"id: {self.revision}\nevent: {kind}\ndata: {text}\n\n".encode()

    def _body(self) -> dict[str, Any]:
        published = [encode(record) for record in self.records.values() if record.phase is not ReplicaPhase.GONE]
        return {"revision": self.revision, "cluster": self.cluster, "at": self._lease(), "endpoints": published} | (
            {} if self.models is None else {"models": self.models}
        )

    def _lease(self) -> float:
        self._at += self._lease_every_s if self.lease_moves else 0.0
        return self._at

    def _authorise(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {GATEWAY_TOKEN}":
            raise web.HTTPUnauthorized

    async def _snapshot(self, request: web.Request) -> web.Response:
        self._authorise(request)
        self.snapshots_served += 1
        return web.Response(text="}{" if self.garbled else json.dumps(self._body()), content_type="application/json")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self._authorise(request)
        if not self.streaming:
            raise web.HTTPNotFound
        self.streams_opened += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queue.put_nowait(self._event("snapshot", self._body()))
        self._streams.add(queue)
        try:
            while True:
                try:
                    async with asyncio.timeout(self._lease_every_s):
                        event = await queue.get()
                except TimeoutError:
                    event = self._event("lease", {"revision": self.revision, "at": self._lease()})
                if not event:
                    return response
                await response.write(event)
        finally:
            self._streams.discard(queue)

    async def _report(self, request: web.Request) -> web.Response:
        self._authorise(request)
        if not self.taking_reports:
            raise web.HTTPServiceUnavailable
        report = await request.json()
        self.reports.append(report | {"gateway_id": request.match_info["id"]})
        self.measured += report["summaries"]
        return web.json_response({"revision": self.revision})
