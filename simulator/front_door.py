"""The gateway in simulated time: follows the registry, routes to the least loaded, reports like the real one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.model.observation import GatewayReport
from broker.model.replica import EndpointRecord, ReplicaPhase
from broker.model.signals import RequestSummary
from broker.model.sketch import Sketch

_NAME, _BOOT = "simulated", "0"


@dataclass(slots=True)
class OpenRequest:
    """A request on its way through. ``endpoint`` is empty while it is held for want of one."""

    request_id: str
    model_id: str
    index: int
    arrival_at: float
    prompt_tokens: int
    output_tokens: int
    endpoint: str = ""
    first_token_at: float | None = None
    refused_by: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Second:
    """What one model saw since the last summary."""

    arrived: int = 0
    finished: int = 0
    failed: int = 0
    first_token_times_s: list[float] = field(default_factory=list)
    inter_token_times_s: list[float] = field(default_factory=list)
    prompt_tokens: list[float] = field(default_factory=list)
    output_tokens: list[float] = field(default_factory=list)


class FrontDoor:
    """One simulated gateway for all models."""

    def __init__(self, model_ids: Iterable[str]) -> None:
        self._ready: dict[str, dict[str, int]] = {model_id: {} for model_id in model_ids}
        self._in_flight: dict[str, int] = {}
        self._waiting: dict[str, dict[str, OpenRequest]] = {model_id: {} for model_id in self._ready}
        self._held: dict[str, dict[str, OpenRequest]] = {model_id: {} for model_id in self._ready}
        self._seconds = {model_id: _Second() for model_id in self._ready}
        self._open = dict.fromkeys(self._ready, 0)
        self._revision = 0
        self._sequence = 0
        self._chosen = 0

    def apply(self, records: Iterable[EndpointRecord]) -> list[OpenRequest]:
        """Take changes of the registry; returns held requests that can be routed now."""
        released: list[OpenRequest] = []
        for record in records:
            self._revision = max(self._revision, record.revision)
            ready = self._ready[record.model_id]
            if record.phase is ReplicaPhase.READY:
                ready.setdefault(record.endpoint_id, 0)
                released.extend(self._held[record.model_id].values())
                self._held[record.model_id].clear()
            else:
                ready.pop(record.endpoint_id, None)
        return released

    def arrive(self, request: OpenRequest) -> None:
        second = self._seconds[request.model_id]
        second.arrived += 1
        second.prompt_tokens.append(request.prompt_tokens)
        self._open[request.model_id] += 1
        self._waiting[request.model_id][request.request_id] = request

    def route(self, request: OpenRequest) -> str | None:
        """The endpoint with the fewest requests in flight, the least recently chosen among equals; None: held.

        One that refused this request is not asked again.
        """
        ready = self._ready[request.model_id].keys() - request.refused_by
        if not ready:
            self._held[request.model_id][request.request_id] = request
            return None
        endpoint = min(
            ready, key=lambda name: (self._in_flight.get(name, 0), self._ready[request.model_id][name], name)
        )
        self._chosen += 1
        self._ready[request.model_id][endpoint] = self._chosen
        self._in_flight[endpoint] = self._in_flight.get(endpoint, 0) + 1
        request.endpoint = endpoint
        return endpoint

    def first_token(self, request: OpenRequest, at: float) -> None:
        request.first_token_at = at
        self._waiting[request.model_id].pop(request.request_id, None)
        self._seconds[request.model_id].first_token_times_s.append(at - request.arrival_at)

    def leave(self, request: OpenRequest, at: float, *, finished: bool) -> bool:
        """The request is over; True if its endpoint has nothing in flight any more."""
        second = self._seconds[request.model_id]
        self._open[request.model_id] -= 1
        self._waiting[request.model_id].pop(request.request_id, None)
        self._held[request.model_id].pop(request.request_id, None)
        if finished:
            second.finished += 1
            second.output_tokens.append(request.output_tokens)
            if request.first_token_at is not None and request.output_tokens > 1:
                second.inter_token_times_s.append((at - request.first_token_at) / (request.output_tokens - 1))
        else:
            second.failed += 1
        return self._release(request)

    def _release(self, request: OpenRequest) -> bool:
        if not request.endpoint:
            return False
        self._in_flight[request.endpoint] -= 1
        if self._in_flight[request.endpoint]:
            return False
        del self._in_flight[request.endpoint]
        return True

    def refused(self, request: OpenRequest) -> None:
        """Its replica is gone, and no token had come: it is to be routed once more, elsewhere."""
        request.refused_by.add(request.endpoint)
        self._release(request)
        request.endpoint = ""

    def report(self, now: float) -> GatewayReport:
        """The session's heartbeat: what was applied, what is in flight."""
        self._sequence += 1
        return GatewayReport(_NAME, _BOOT, self._sequence, self._revision, now, now, dict(self._in_flight))

    def summaries(self, now: float, interval_s: float) -> list[RequestSummary]:
        """One summary for each model, and a new interval."""
        self._sequence += 1
        made = [self._summary(model_id, second, now, interval_s) for model_id, second in self._seconds.items()]
        self._seconds = {model_id: _Second() for model_id in self._seconds}
        return made

    def _summary(self, model_id: str, second: _Second, now: float, interval_s: float) -> RequestSummary:
        waiting = self._waiting[model_id]
        return RequestSummary(
            model_id=model_id,
            gateway_id=_NAME,
            boot_id=_BOOT,
            sequence=self._sequence,
            observed_at=now,
            received_at=now,
            interval_s=interval_s,
            arrived=second.arrived,
            finished=second.finished,
            failed=second.failed,
            held=len(self._held[model_id]),
            in_flight=self._open[model_id],
            waiting=len(waiting),
            oldest_waiting_since=min((request.arrival_at for request in waiting.values()), default=None),
            queue_age=Sketch.of(now - request.arrival_at for request in waiting.values()),
            time_to_first_token=Sketch.of(second.first_token_times_s),
            inter_token=Sketch.of(second.inter_token_times_s),
            prompt_tokens=Sketch.of(second.prompt_tokens),
            output_tokens=Sketch.of(second.output_tokens),
        )
