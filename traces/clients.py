"""Clients that react: they lose patience, try again, and go on with the conversation once they have an answer.

Pure: whoever simulates asks ``Clients`` for the openings, and after each request what comes next. The questions of a
session, their lengths and pauses are in its script, and each draw belongs to its request and attempt: two policies
face the same people, who differ only in what they were answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from traces.randomness import Draws
from traces.schema import Requests
from traces.sessions import Script, script_of


class Ending(StrEnum):
    """What a client saw of its request."""

    ANSWERED = "answered"
    FAILED = "failed"
    REJECTED = "rejected"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class ClientRules:
    """How clients behave.

    Patience, the time to the first token after which a client leaves, is lognormal; None: nobody leaves. After a
    failure, a rejection or its own leaving a client asks again with probability ``retry_share``, up to ``retries``
    times, after ``retry_pause_s``, doubled each time and spread by half to either side. A client that gives up ends
    its session. The defaults are those of a program without any such rule.
    """

    patience_median_s: float | None = None
    patience_sigma: float = 0.5
    retries: int = 0
    retry_share: float = 1.0
    retry_pause_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """One request as its client sends it at ``at_s``. ``number`` is that of the request in the whole load, the same
    for all attempts; row ``row`` of ``script.block`` holds its tokens and codes. Unless a first token has come by
    ``at_s + patience_s`` its client leaves."""

    number: int
    at_s: float
    patience_s: float
    attempt: int
    script: Script
    row: int

    @property
    def prompt_tokens(self) -> int:
        return int(self.script.block.prompt_tokens[self.row])

    @property
    def output_tokens(self) -> int:
        return int(self.script.block.output_tokens[self.row])


class Clients:
    """The clients of one load; ``name`` and ``seed`` as it was generated with."""

    def __init__(self, rules: ClientRules, seed: int, *, name: str = "load") -> None:
        self.rules = rules
        self._patience = Draws(seed, name, "patience")
        self._retry = Draws(seed, name, "retry")

    def openings(self, scripts: Iterable[Script]) -> Iterator[Question]:
        """The first request of each session, in order of arrival."""
        number = 0
        for script in scripts:
            for row in np.flatnonzero(script.first).tolist():
                yield self._ask(script, row, number + row, float(script.block.arrival_s[row]), 0)
            number += len(script)

    def after(self, question: Question, ending: Ending, at_s: float) -> Question | None:
        """What this client sends next, its last request having ended at ``at_s``; None if that was all."""
        if ending is Ending.ANSWERED:
            script, row = question.script, question.row + 1
            if row == len(script) or script.first[row]:
                return None
            return self._ask(script, row, question.number + 1, at_s + float(script.pause_s[row]), 0)
        attempt = question.attempt + 1
        if attempt > self.rules.retries or self._retry.uniform(question.number, attempt) >= self.rules.retry_share:
            return None
        spread = 0.5 + self._retry.uniform(question.number, attempt, 1)
        pause_s = self.rules.retry_pause_s * 2.0 ** (attempt - 1) * spread
        return self._ask(question.script, question.row, question.number, at_s + pause_s, attempt)

    def soonest_s(self, question: Question) -> float:
        """However and whenever it ends, nothing follows sooner than this after its end; infinity if nothing does."""
        script, row = question.script, question.row + 1
        goes_on = row < len(script) and not script.first[row]
        pause_s = float(script.pause_s[row]) if goes_on else math.inf
        if question.attempt < self.rules.retries:
            pause_s = min(pause_s, self.rules.retry_pause_s * 2.0**question.attempt * 0.5)
        return pause_s

    def _ask(self, script: Script, row: int, number: int, at_s: float, attempt: int) -> Question:
        median_s = self.rules.patience_median_s
        patience_s = (
            math.inf
            if median_s is None
            else self._patience.lognormal(median_s, self.rules.patience_sigma, number, attempt)
        )
        return Question(number, at_s, patience_s, attempt, script, row)


def recorded(requests: Requests) -> Iterator[Script]:
    """Requests of a trace for ``Clients.openings``: each comes when it was recorded, and may be asked again."""
    return (script_of(block) for block in requests.blocks())
