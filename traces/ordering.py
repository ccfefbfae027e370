"""Rows of a file, which loggers write when a request ends, in order of arrival and in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from traces.blocks import EMPTY, Bools, Floats, Ints, RequestBlock, joined

REORDER_ROWS = 4096
"""A row may stand this many rows after its place: loggers write when a request ends, which is minutes at most."""

JUMP_S = 3600.0
"""A row this far ahead of all before it, while nearly all after it go on behind, was stamped by a wrong clock."""

_FEW = 32
"""So many rows may share one wrong clock."""

NumberedBlock = tuple[RequestBlock, Ints]
"""Rows with their line numbers."""


def in_order(blocks: Iterable[NumberedBlock], refuse: Callable[[int, str], None]) -> Iterator[RequestBlock]:
    """The rows sorted by ``arrival_s``. ``refuse(line, problem)`` is told of each row that is left out:

    - one that is earlier than a row more than ``REORDER_ROWS`` above it, which may have been given out already;
    - one whose clock jumped ahead and back, which would make every row after it such a row.

    What is left out does not depend on how the rows are divided into blocks.
    """
    sorter = _Sorter(refuse)
    for block, lines in blocks:
        if released := sorter.add(block, lines):
            yield released
    if released := sorter.rest():
        yield released


class _Sorter:
    def __init__(self, refuse: Callable[[int, str], None]) -> None:
        self._refuse = refuse
        self._undecided: NumberedBlock = (EMPTY, np.empty(0, dtype=np.int64))
        self._levels = np.full(REORDER_ROWS, -np.inf)
        """The latest time seen up to each of the last decided rows."""
        self._pending = EMPTY

    def add(self, block: RequestBlock, lines: Ints) -> RequestBlock | None:
        rows = joined((self._undecided[0], block))
        numbers = np.concatenate((self._undecided[1], lines))
        decided = max(0, len(rows) - REORDER_ROWS)
        self._undecided = (rows.take(slice(decided, None)), numbers[decided:])
        if not decided:
            return None
        return self._release(rows, numbers, self._without_jumps(rows.arrival_s, numbers, decided))

    def rest(self) -> RequestBlock | None:
        rows, numbers = self._undecided
        released = self._release(rows, numbers, np.ones(len(rows), dtype=np.bool_))
        parts = [part for part in (released, self._pending) if part is not None and len(part)]
        self._pending = EMPTY
        return joined(parts) if parts else None

    def _without_jumps(self, at: Floats, numbers: Ints, decided: int) -> Bools:
        """Which of the rows to be decided are no clock jumps; each has ``REORDER_ROWS`` rows after it."""
        keep = np.ones(decided, dtype=np.bool_)
        checked = 0
        while True:
            sound = np.where(keep, at[:decided], -np.inf)
            before = np.maximum.accumulate(np.concatenate((self._levels[-1:], sound)))[:-1]
            ahead = np.flatnonzero(sound > before + JUMP_S)
            jumped = next((row for row in ahead[ahead >= checked].tolist() if self._alone(at, row)), None)
            if jumped is None:
                return keep
            keep[jumped] = False
            ahead_s = at[jumped] - float(np.median(at[jumped + 1 : jumped + 1 + REORDER_ROWS]))
            self._refuse(
                int(numbers[jumped]),
                f"{ahead_s:.6g} s ahead of the rows after it: the clock jumped there and back; correct this time",
            )
            checked = jumped

    @staticmethod
    def _alone(at: Floats, row: int) -> bool:
        following = at[row + 1 : row + 1 + REORDER_ROWS]
        return bool(np.count_nonzero(following >= at[row] - JUMP_S) < _FEW)

    def _release(self, rows: RequestBlock, numbers: Ints, keep: Bools) -> RequestBlock | None:
        kept = np.flatnonzero(keep)
        at = rows.arrival_s[kept]
        levels = np.concatenate((self._levels, np.maximum.accumulate(np.concatenate((self._levels[-1:], at)))[1:]))
        late = at < levels[: len(at)]
        for index in np.flatnonzero(late):
            back_s = levels[index] - at[index]
            self._refuse(
                int(numbers[kept[index]]),
                f"{back_s:.6g} s before a row more than {REORDER_ROWS} rows above; sort the file by time",
            )
        self._levels = levels[len(levels) - REORDER_ROWS :]
        pending = joined((self._pending, rows.take(kept[~late]))).by_arrival()
        count = int(np.searchsorted(pending.arrival_s, self._levels[0], side="right"))
        self._pending = pending.take(slice(count, None))
        return pending.take(slice(count)) if count else None
