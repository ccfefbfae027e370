"""The requests of a run on their way to the front door: each comes at its time, and clients react to their answers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from broker.model.errors import ConfigError
from simulator.crowd import SHORTEST_S, Crowd
from simulator.demand import Demand
from simulator.driver import Driver
from simulator.front_door import FrontDoor
from simulator.ledger import ABANDONED, CUT, FINISHED, OPEN, REJECTED, Ledger
from traces.blocks import RequestBlock
from traces.clients import Ending

_SPAN_S = 86_400.0
"""Of the arrivals that the fleet is told ahead of: it counts them only for some months."""

_ENDINGS = {FINISHED: Ending.ANSWERED, CUT: Ending.FAILED, REJECTED: Ending.REJECTED, ABANDONED: Ending.ABANDONED}
"""What clients make of how their requests ended."""


class Arrivals:
    """Drives a run by what is asked in it. ``start_at``: the demand's second 0, in epoch seconds.

    Raises ``ConfigError`` if a model is asked that the door does not have.
    """

    def __init__(self, demand: Demand, driver: Driver, door: FrontDoor, ledger: Ledger, start_at: float) -> None:
        if unknown := sorted(set(demand.models).difference(door.model_ids)):
            raise ConfigError(
                f"the load asks {', '.join(unknown)}; the policies have {', '.join(door.model_ids)}", field="models"
            )
        self._demand = demand
        self._driver = driver
        self._door = door
        self._ledger = ledger
        self._start_at = start_at
        self._numbers = np.array([door.pool_of(model_id) for model_id in demand.models], np.int16)
        """By the demand's code of a model: its number at door and ledger."""
        self._crowd = Crowd(demand.requests, demand.reacting, demand.until_s) if demand.reacting else None

    def let_come(self) -> float:
        """All that is asked; when the last of it came."""
        return self._let_come() if self._crowd is None else self._let_react(self._crowd)

    def run_to(self, at: float) -> None:
        """With an eye on the clients who react."""
        while self._crowd is not None and self._crowd.waits and self._driver.now < at and not self._driver.stopped:
            look_at = self._start_at + self._crowd.look_at_s()
            self._driver.run_until(min(at, max(look_at, self._driver.now)))
            self._look_after(self._crowd, self._driver.now - self._start_at)
        self._driver.run_until(at)

    def _let_come(self) -> float:
        """Requests that come as they may; when the last one did."""
        last_arrival_at = self._start_at
        for block in self._demand.requests.blocks():
            for part in _within(_SPAN_S, block):
                self._run_before(self._start_at + float(part.arrival_s[0]))
                if self._driver.stopped:
                    return last_arrival_at
                last_arrival_at = self._expect(part)
                self._run_before(last_arrival_at)
        return last_arrival_at

    def _let_react(self, crowd: Crowd) -> float:
        """Requests of clients who react, and the others between them; when the last one came."""
        last_arrival_at = self._start_at
        at_s = crowd.next_at_s
        while at_s < self._demand.until_s and not self._driver.stopped:
            self._run_before(self._start_at + at_s)
            self._look_after(crowd, at_s)
            asked_s = at_s
            while crowd.next_at_s < crowd.look_at_s():
                asked_s = min(crowd.next_at_s + SHORTEST_S, crowd.look_at_s())
                block, who = crowd.asked_before(asked_s)
                crowd.sent(len(self._ledger), who)
                last_arrival_at = self._expect(block)
            at_s = max(asked_s, crowd.look_at_s()) if crowd.waits else max(asked_s, crowd.next_at_s)
        self._run_before(last_arrival_at)
        return last_arrival_at

    def _look_after(self, crowd: Crowd, now_s: float) -> None:
        """Who lost patience leaves; who was answered, or failed, or left, thinks of what to ask next."""
        self._door.catch_up(self._driver.now)
        ledger = self._ledger
        late = crowd.out_of_patience(
            now_s, lambda row: ledger.status[row] != OPEN or not math.isnan(ledger.first_token_at[row])
        )
        if late:
            self._door.abandon(np.array(late, np.int64), self._driver.now)
        rows = np.array(crowd.open_rows, np.int64)
        ended = rows[ledger.status[rows] != OPEN]
        for row, status, at in zip(ended.tolist(), ledger.status[ended], ledger.ended_at[ended], strict=True):
            crowd.ended(row, _ENDINGS[status], float(at) - self._start_at, now_s)

    def _expect(self, block: RequestBlock) -> float:
        """Take a block's requests in, each to come at its time; when the last one does."""
        arrival_at = self._start_at + block.arrival_s
        rows = self._ledger.append(
            arrival_at, block.prompt_tokens, block.output_tokens, self._numbers[block.model], block.tenant
        )
        self._door.expect(rows, block.prefix_group, block.prefix_tokens)
        return float(arrival_at[-1])

    def _run_before(self, at: float) -> None:
        """Up to an arrival: others may come at the same instant that are not known yet, and they all come first."""
        self._driver.run_until(math.nextafter(at, -math.inf))


def _within(span_s: float, block: RequestBlock) -> Iterator[RequestBlock]:
    """The block in parts that last no longer."""
    begin = 0
    while begin < len(block):
        end = int(np.searchsorted(block.arrival_s, block.arrival_s[begin] + span_s, side="right"))
        yield block.take(slice(begin, end))
        begin = end
