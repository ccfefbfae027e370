"""What this gateway sees of each model's requests, cut into one ``RequestSummary`` a second. Pure.

What the fields mean here. ``in_flight`` are all open requests, ``held`` those of them that have no endpoint now.
``waiting`` are the held ones and streamed ones without a first token; a request that is not streamed shows no first
token, so it counts as waiting only while held. ``finished`` are answers that came through whole (also an engine's 4xx)
and requests whose user went away; ``failed`` were cut or refused by engines; ``rejected`` found no endpoint in time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from broker.model.signals import RequestSummary
from broker.model.sketch import Sketch, bucket_of


class Outcome(StrEnum):
    """How a request ended. ABANDONED: the user closed the connection first."""

    FINISHED = "finished"
    FAILED = "failed"
    REJECTED = "rejected"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class SummaryName:
    """By whom, in which run, as which report a summary is given: together its identity."""

    gateway_id: str
    boot_id: str
    sequence: int


class ModelTally:
    """The running account of one model. Totals count since the start, a cut takes their difference."""

    def __init__(self) -> None:
        self.arrived = 0
        self.held = 0
        self.ended: Counter[Outcome] = Counter()
        self.time_to_first_token: Counter[int] = Counter()
        self._waiting: dict[int, float] = {}
        self._inter_token: Counter[int] = Counter()
        self._first_token: Counter[int] = Counter()
        self._prompt_tokens: Counter[int] = Counter()
        self._output_tokens: Counter[int] = Counter()
        self._at_last_cut: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        return self.arrived - self.ended.total()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def arrive(self, arrived_at: float) -> int:
        """A request came; its number among this model's, to be named by in the calls that follow."""
        self.arrived += 1
        self._waiting[self.arrived] = arrived_at
        return self.arrived

    def no_longer_waiting(self, number: int) -> None:
        self._waiting.pop(number, None)

    def wait_again(self, number: int, arrived_at: float) -> None:
        """A request that was thought placed needs another endpoint; it waits since it arrived, in that order."""
        if number not in self._waiting:
            self._waiting[number] = arrived_at
            self._waiting = dict(sorted(self._waiting.items()))

    def first_token(self, number: int, after_s: float) -> None:
        self._waiting.pop(number, None)
        self._first_token[bucket_of(after_s)] += 1

    def tokens_between(self, gap_s: float, events: int) -> None:
        """``events`` came ``gap_s`` after the ones before: as many equal shares of the gap."""
        self._inter_token[bucket_of(gap_s / events)] += events

    def end(self, number: int, outcome: Outcome, prompt_tokens: int | None, output_tokens: int | None) -> None:
        self._waiting.pop(number, None)
        self.ended[outcome] += 1
        if prompt_tokens is not None:
            self._prompt_tokens[bucket_of(prompt_tokens)] += 1
        if output_tokens is not None:
            self._output_tokens[bucket_of(output_tokens)] += 1

    def cut(self, model_id: str, name: SummaryName, now: float, interval_s: float) -> RequestSummary:
        """The summary since the last cut."""
        totals = Counter(
            arrived=self.arrived,
            finished=self.ended[Outcome.FINISHED] + self.ended[Outcome.ABANDONED],
            failed=self.ended[Outcome.FAILED],
            rejected=self.ended[Outcome.REJECTED],
        )
        since, self._at_last_cut = totals - self._at_last_cut, totals
        self.time_to_first_token += self._first_token
        summary = RequestSummary(
            model_id=model_id,
            gateway_id=name.gateway_id,
            boot_id=name.boot_id,
            sequence=name.sequence,
            observed_at=now,
            received_at=now,
            interval_s=interval_s,
            arrived=since["arrived"],
            finished=since["finished"],
            failed=since["failed"],
            rejected=since["rejected"],
            held=self.held,
            in_flight=self.in_flight,
            waiting=len(self._waiting),
            oldest_waiting_since=next(iter(self._waiting.values()), None),
            queue_age=Sketch.of(now - arrived_at for arrived_at in self._waiting.values()),
            time_to_first_token=Sketch.from_counts(self._first_token),
            inter_token=Sketch.from_counts(self._inter_token),
            prompt_tokens=Sketch.from_counts(self._prompt_tokens),
            output_tokens=Sketch.from_counts(self._output_tokens),
        )
        for counts in (self._first_token, self._inter_token, self._prompt_tokens, self._output_tokens):
            counts.clear()
        return summary


class Tallies:
    """The accounts of all models; the caller asks only for models it serves, so that users cannot make any."""

    def __init__(self) -> None:
        self._by_model: dict[str, ModelTally] = {}

    def of(self, model_id: str) -> ModelTally:
        tally = self._by_model.get(model_id)
        if tally is None:
            tally = self._by_model[model_id] = ModelTally()
        return tally

    def keep(self, model_ids: Collection[str]) -> None:
        """Forget all other models, as far as no request of theirs is open."""
        for model_id in [each for each, tally in self._by_model.items() if not tally.in_flight]:
            if model_id not in model_ids:
                del self._by_model[model_id]

    def items(self) -> list[tuple[str, ModelTally]]:
        return sorted(self._by_model.items())

    def cut(self, name: SummaryName, now: float, interval_s: float) -> list[RequestSummary]:
        """One summary of each model, also of those with nothing to tell: a true zero is not an absent signal."""
        return [tally.cut(model_id, name, now, interval_s) for model_id, tally in self.items()]
