"""Plays requests against an OpenAI gateway at their arrival times, and notes what each client saw."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterable
from itertools import pairwise

import aiohttp

from simulator.report.summary import Outcome, RequestOutcome
from traces.schema import TraceRequest

_DONE = b"data: [DONE]"
_ABORTED = b'"finish_reason":"abort"'
_ERROR = b'data: {"error"'


class LoadPlayer:
    """Open loop: a request is sent when its time has come, however many are still open."""

    def __init__(self, session: aiohttp.ClientSession, gateway_url: str, model_id: str) -> None:
        self._session = session
        self._url = f"{gateway_url}/v1/completions"
        self._model_id = model_id
        self._began = 0.0
        self.outcomes: list[RequestOutcome] = []
        self.problems: list[str] = []
        self.sent = 0
        self.open_streams = 0
        self.open_history: list[tuple[float, int]] = []
        self.began_at = 0.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    async def play(self, requests: Iterable[TraceRequest], wall_clock: Callable[[], float]) -> None:
        """Until every request is over."""
        self._began, self.began_at = time.monotonic(), wall_clock()
        async with asyncio.TaskGroup() as group:
            for request in requests:
                wait_s = request.arrival_s - self.elapsed_s
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self.sent += 1
                group.create_task(self._send(request))

    async def _send(self, request: TraceRequest) -> None:
        """Prompts are lists of token ids, which vLLM takes too: their lengths are exact without any tokenizer."""
        body = {
            "model": self._model_id,
            "prompt": [100 + index % 1000 for index in range(request.prompt_tokens)],
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        arrival_s = self.elapsed_s
        times = array("d")
        status = Outcome.FAILED
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status == 200:
                    status = await self._read(response, times)
                else:
                    text = (await response.text())[:200]
                    status = Outcome.REJECTED if response.status < 500 else Outcome.FAILED
                    self._note(f"HTTP {response.status}: {text}")
        except asyncio.CancelledError:
            status = Outcome.UNFINISHED
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status = Outcome.CUT if times else Outcome.FAILED
            self._note(f"{type(error).__name__}: {error}")
        gaps = array("d", (after - before for before, after in pairwise(times)))
        self.outcomes.append(
            RequestOutcome(
                arrival_s=arrival_s,
                prompt_tokens=request.prompt_tokens,
                output_tokens=len(times),
                status=status,
                first_token_s=times[0] if times else None,
                end_s=self.elapsed_s,
                token_gaps_s=gaps,
            )
        )

    async def _read(self, response: aiohttp.ClientResponse, times: array[float]) -> Outcome:
        """The stream to its end; a token each event. Without ``[DONE]``, or aborted, it was cut."""
        self._opened(+1)
        finished = aborted = False
        try:
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(_DONE):
                    finished = True
                elif line.startswith(_ERROR):
                    aborted = True
                    self._note(line.decode(errors="replace")[:200])
                else:
                    times.append(self.elapsed_s)
                    aborted = aborted or _ABORTED in line
        finally:
            self._opened(-1)
        return Outcome.FINISHED if finished and not aborted else Outcome.CUT

    def _opened(self, change: int) -> None:
        self.open_streams += change
        self.open_history.append((self.elapsed_s, self.open_streams))

    def _note(self, problem: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(problem)

    def open_at(self, elapsed_s: float) -> int:
        """Streams open at that second of the run."""
        count = 0
        for at, opened in self.open_history:
            if at > elapsed_s:
                break
            count = opened
        return count
