"""Every request of a run as columns that grow with the trace; a request is its row."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simulator.report.summary import OUTCOMES, Outcome, Outcomes

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

OPEN = OUTCOMES.index(Outcome.UNFINISHED)
FINISHED = OUTCOMES.index(Outcome.FINISHED)
CUT = OUTCOMES.index(Outcome.CUT)
REJECTED = OUTCOMES.index(Outcome.REJECTED)
ABANDONED = OUTCOMES.index(Outcome.ABANDONED)

_FIRST_ROWS = 4096

Columns: TypeAlias = tuple[Any, ...]


class Ledger:
    """``arrival_at``, ``first_token_at`` and ``ended_at`` are epoch seconds, NaN where there is none yet; ``status``
    holds codes of ``OUTCOMES``, ``model`` and ``tenant`` whatever numbers the caller gives to them.

    The arrays are longer than ``len`` and replaced as they grow: read them anew each time.
    """

    def __init__(self) -> None:
        self._length = 0
        self.arrival_at: Floats = np.empty(_FIRST_ROWS)
        self.first_token_at: Floats = np.empty(_FIRST_ROWS)
        self.ended_at: Floats = np.empty(_FIRST_ROWS)
        self.prompt_tokens: NDArray[np.int32] = np.empty(_FIRST_ROWS, np.int32)
        self.output_tokens: NDArray[np.int32] = np.empty(_FIRST_ROWS, np.int32)
        self.model: NDArray[np.int16] = np.empty(_FIRST_ROWS, np.int16)
        self.tenant: NDArray[np.int16] = np.empty(_FIRST_ROWS, np.int16)
        self.status: NDArray[np.int8] = np.empty(_FIRST_ROWS, np.int8)
        self._know_columns()

    def _know_columns(self) -> None:
        self.columns: Columns = (
            self.arrival_at, self.first_token_at, self.ended_at, self.prompt_tokens, self.output_tokens, self.model,
            self.status,
        )  # fmt: skip
        """All of them, for compiled code."""

    def __len__(self) -> int:
        return self._length

    def append(self, arrival_at: Floats, prompt_tokens: Any, output_tokens: Any, model: Any, tenant: Any) -> Rows:
        """Requests in order of arrival, none before the last; their rows. A prompt or an answer of no token has one."""
        begin, end = self._length, self._length + len(arrival_at)
        self._grow(end)
        self.arrival_at[begin:end] = arrival_at
        self.first_token_at[begin:end] = np.nan
        self.ended_at[begin:end] = np.nan
        self.prompt_tokens[begin:end] = np.maximum(1, prompt_tokens)
        self.output_tokens[begin:end] = np.maximum(1, output_tokens)
        self.model[begin:end] = model
        self.tenant[begin:end] = tenant
        self.status[begin:end] = OPEN
        self._length = end
        return np.arange(begin, end)

    def _grow(self, wanted: int) -> None:
        if wanted <= len(self.arrival_at):
            return
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                longer = np.empty(max(wanted, 2 * len(column)), column.dtype)
                longer[: self._length] = column[: self._length]
                setattr(self, name, longer)
        self._know_columns()

    def arrived_by(self, now: float) -> int:
        """How many had arrived at ``now``: the rows before that number."""
        return int(self.arrival_at[: self._length].searchsorted(now, side="right"))

    def close(self, rows: Any, at: Any, status: int) -> None:
        self.ended_at[rows] = at
        self.status[rows] = status

    def count(self, status: int, rows: int | None = None) -> int:
        """How many of the first ``rows`` (None: all) have this status."""
        return int(np.count_nonzero(self.status[: self._length if rows is None else rows] == status))

    def outcomes(self, start_at: float, arrived: int, model: int | None = None) -> Outcomes:
        """The first ``arrived`` requests, or those of them to one model, as their clients saw them, in seconds from
        ``start_at``.

        Token gaps are each request's mean: the engine gives first and last token, not each.
        """
        rows: Any = slice(0, arrived)
        if model is not None:
            rows = np.flatnonzero(self.model[rows] == model)
        first_token_s = self.first_token_at[rows] - start_at
        end_s = self.ended_at[rows] - start_at
        finished = self.status[rows] == FINISHED
        output_tokens = np.where(finished, self.output_tokens[rows], 0)
        streamed = output_tokens > 1
        gap_counts = output_tokens[streamed] - 1
        return Outcomes(
            arrival_s=self.arrival_at[rows] - start_at,
            first_token_s=first_token_s,
            end_s=end_s,
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=output_tokens,
            answer_tokens=self.output_tokens[rows],
            status=self.status[rows],
            model=self.model[rows],
            tenant=self.tenant[rows],
            token_gaps_s=(end_s - first_token_s)[streamed] / gap_counts,
            token_gap_counts=gap_counts,
        )
