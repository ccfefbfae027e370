"""Clients that react to what they get: when they ask, what comes of it, what they ask next.

The engines tell of answers when somebody looks. So a run with such clients goes in steps, each no longer than the
soonest that a client could leave or ask again; but looking all the time would cost more than simulating, so they are
not shorter than ``SHORTEST_S``: who loses patience in between leaves at the next look, and a question that would have
come before it comes with it. No signal that a broker has is finer.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from traces.blocks import EMPTY, RequestBlock, joined
from traces.clients import Ending, Question
from traces.scenario import ReactingLoad
from traces.schema import Requests

SHORTEST_S = 0.1
LONGEST_S = 2.0
"""Between two looks, in seconds of the run."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question and the load whose client asks it."""

    load: ReactingLoad
    question: Question

    @property
    def at_s(self) -> float:
        return self.question.at_s


class Crowd:
    """All that is asked in a run, in the order of its time: ``requests`` come as they may, the clients of ``loads``
    react. Times are seconds of the run; nobody asks at ``until_s`` or later."""

    def __init__(self, requests: Requests, loads: Sequence[ReactingLoad], until_s: float) -> None:
        self._until_s = until_s
        self._blocks = requests.blocks()
        self._block = next(self._blocks, EMPTY)
        self._openings = heapq.merge(*map(_openings, loads), key=lambda asked: asked.at_s)
        self._opening = next(self._openings, None)
        self._later: list[tuple[float, int, _Asked]] = []
        self._planned = 0
        self._open: dict[int, _Asked] = {}
        self._patience: list[tuple[float, int]] = []
        self._soonest: list[tuple[float, int]] = []
        self._looked_s = 0.0

    @property
    def next_at_s(self) -> float:
        """When the next question is asked, as far as is known; infinity if none is."""
        at_s = min(
            float(self._block.arrival_s[0]) if len(self._block) else math.inf,
            self._opening.at_s if self._opening is not None else math.inf,
            self._later[0][0] if self._later else math.inf,
        )
        return at_s if at_s < self._until_s else math.inf

    @property
    def waits(self) -> bool:
        """Whether a client waits for an answer."""
        return bool(self._open)

    @property
    def open_rows(self) -> list[int]:
        """The rows, as ``sent`` numbered them, of clients' questions that have no end yet."""
        return list(self._open)

    # -- asking

    def asked_before(self, at_s: float) -> tuple[RequestBlock, list[_Asked | None]]:
        """What is asked before then and was not given yet, in order of time, and who asks each (None: nobody who
        reacts): to be given to ``sent``."""
        at_s = min(at_s, self._until_s)
        block = joined([EMPTY, *self._blocks_before(at_s)])
        asked = sorted(self._questions_before(at_s), key=lambda each: each.at_s)
        if not asked:
            return block, [None] * len(block)
        whole = joined((block, _block_of(asked)))
        order = np.argsort(whole.arrival_s, kind="stable")
        who = [None] * len(block) + asked
        return whole.take(order), [who[place] for place in order.tolist()]

    def sent(self, first_row: int, who: Sequence[_Asked | None]) -> None:
        """The block was sent, as rows from this one on."""
        for row, asked in enumerate(who, first_row):
            if asked is not None:
                self._open[row] = asked
                heapq.heappush(self._soonest, (asked.load.clients.soonest_s(asked.question), row))
                if asked.question.patience_s < math.inf:
                    heapq.heappush(self._patience, (asked.at_s + asked.question.patience_s, row))

    def _blocks_before(self, at_s: float) -> Iterator[RequestBlock]:
        while len(self._block):
            count = int(np.searchsorted(self._block.arrival_s, at_s))
            if count:
                yield self._block.take(slice(count))
            if count < len(self._block):
                self._block = self._block.take(slice(count, None))
                return
            self._block = next(self._blocks, EMPTY)

    def _questions_before(self, at_s: float) -> Iterator[_Asked]:
        while self._opening is not None and self._opening.at_s < at_s:
            yield self._opening
            self._opening = next(self._openings, None)
        while self._later and self._later[0][0] < at_s:
            yield heapq.heappop(self._later)[-1]

    # -- what became of it

    def look_at_s(self) -> float:
        """When to look next, at the latest: nobody leaves, and nothing unknown is asked, before."""
        while self._soonest and self._soonest[0][1] not in self._open:
            heapq.heappop(self._soonest)
        soonest_s = self._soonest[0][0] if self._soonest else math.inf
        leaves_at_s = self._patience[0][0] if self._patience else math.inf
        at_s = min(leaves_at_s, self._looked_s + min(soonest_s, LONGEST_S))
        return max(at_s, self._looked_s + SHORTEST_S)

    def out_of_patience(self, now_s: float, is_served: Callable[[int], bool]) -> list[int]:
        """A look: rows whose clients leave. ``is_served``: whether a first token has come."""
        self._looked_s = now_s
        rows = []
        while self._patience and (self._patience[0][0] <= now_s or is_served(self._patience[0][1])):
            row = heapq.heappop(self._patience)[1]
            if not is_served(row):
                rows.append(row)
        return rows

    def ended(self, row: int, ending: Ending, at_s: float, now_s: float) -> None:
        """A client's question has ended, and at ``now_s`` it is seen."""
        asked = self._open.pop(row)
        following = asked.load.clients.after(asked.question, ending, at_s)
        if following is None:
            return
        if following.at_s < now_s:
            following = replace(following, at_s=now_s)
        self._planned += 1
        heapq.heappush(self._later, (following.at_s, self._planned, _Asked(asked.load, following)))


def _openings(load: ReactingLoad) -> Iterator[_Asked]:
    for question in load.clients.openings(load.scripts):
        yield _Asked(load, question)


def _block_of(asked: Sequence[_Asked]) -> RequestBlock:
    """One row for each question, at its own time."""
    rows = [each.question.script.block.take(slice(each.question.row, each.question.row + 1)) for each in asked]
    return joined(rows).at(np.array([each.at_s for each in asked]))
