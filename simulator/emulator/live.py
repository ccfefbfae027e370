"""The reference engine in real time: one timer at the end of each iteration, tokens handed to who waits for them."""

from __future__ import annotations

import asyncio

from simulator.emulator.vllm_metrics import VllmMetrics
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import EngineRequest, Finished, FirstToken, Iteration


class TokenStream:
    """One request's tokens as they come out. ``finish_reason`` is None until the last."""

    __slots__ = ("_waiter", "finish_reason", "last_token_at", "max_tokens", "produced", "request", "will_finish")

    def __init__(self, request: EngineRequest, max_tokens: int, will_finish: str) -> None:
        self.request = request
        self.max_tokens = max_tokens
        self.will_finish = will_finish
        self.produced = 0
        self.last_token_at = 0.0
        self.finish_reason: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def more_than(self, seen: int) -> None:
        """Wait until more than ``seen`` tokens are there, or the end."""
        while self.produced <= seen and self.finish_reason is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class LiveEngine:
    """Runs in one event loop; ``asyncio``'s clock is the engine's time."""

    def __init__(self, engine: ReferenceEngine, metrics: VllmMetrics, *, frozen: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._metrics = metrics
        self._frozen = frozen
        self._streams: dict[str, TokenStream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._submitted = 0

    def submit(self, prompt_tokens: int, output_tokens: int, *, max_tokens: int, will_finish: str) -> TokenStream:
        """Start a request now. ``will_finish`` is the reason that its last token will carry."""
        self._advance()
        self._submitted += 1
        request = EngineRequest(str(self._submitted), self._loop.time(), prompt_tokens, output_tokens)
        stream = TokenStream(request, max_tokens, will_finish)
        self._streams[request.request_id] = stream
        self._engine.add(request)
        self._set_timer()
        return stream

    def cancel(self, stream: TokenStream) -> None:
        """Drop a request whose client has gone; nothing if it has ended."""
        self._advance()  # before it is forgotten: tokens that are due already still name it
        if self._streams.pop(stream.request.request_id, None) is not None:
            self._engine.abort(stream.request.request_id)
        self._set_timer()

    def abort_all(self) -> None:
        """End every request with ``finish_reason`` "abort", as vLLM does when it shuts down without a time-out."""
        for stream in self._streams.values():
            self._engine.abort(stream.request.request_id)
            self._metrics.count_aborted()
            stream.finish_reason = "abort"
            stream.wake()
        self._streams.clear()

    def freeze(self) -> None:
        """From now on no token comes out and nothing moves."""
        self._frozen = True

    def metrics_text(self) -> str:
        self._advance()
        self._set_timer()
        return self._metrics.text(self._engine)

    def _advance(self) -> None:
        if not self._frozen:
            for iteration in self._engine.iterations(self._loop.time()):
                self._deliver(iteration)

    def _on_timer(self) -> None:
        self._advance()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self._engine.next_event_at()
        self._timer = None if at is None or self._frozen else self._loop.call_at(at, self._on_timer)

    def _deliver(self, iteration: Iteration) -> None:
        metrics = self._metrics
        metrics.observe_iteration(iteration)
        for event in iteration.events:
            stream = self._streams[event.request_id]
            if isinstance(event, FirstToken):
                metrics.observe_first_token(event.at - stream.request.arrival_at)
            else:
                self._finish(stream, event)
        for request_id in iteration.emitted:
            stream = self._streams[request_id]
            if stream.produced:
                metrics.observe_inter_token(iteration.ended_at - stream.last_token_at)
            stream.last_token_at = iteration.ended_at
            stream.produced += 1
            stream.wake()
            if stream.finish_reason is not None:
                del self._streams[request_id]

    def _finish(self, stream: TokenStream, event: Finished) -> None:
        request = stream.request
        stream.finish_reason = stream.will_finish
        self._metrics.observe_finished(
            event,
            arrival_at=request.arrival_at,
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            output_tokens=request.output_tokens,
            max_tokens=stream.max_tokens,
            reason=stream.will_finish,
        )
