"""Requests as columns: blocks of numpy arrays, so that millions a second can be read, made and simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.model.errors import TraceError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BLOCK_ROWS = 32_768
"""Some 1.5 MB of columns: large enough that numpy's calls cost nothing, small enough for a processor's cache."""

NONE = -1
"""The code of a row that has no model, tenant, kind, session or group."""

MOST_NAMES = 10_000

_TYPES: dict[str, Any] = {
    "arrival_s": np.float64,
    "prompt_tokens": np.int32,
    "output_tokens": np.int32,
    "kind": np.int8,
    "model": np.int32,
    "tenant": np.int32,
    "session": np.int64,
    "prefix_group": np.int64,
    "prefix_tokens": np.int32,
}


@dataclass(frozen=True, slots=True, eq=False)
class RequestBlock:
    """Some requests in order of arrival, one array for each column, all of one length.

    ``output_tokens`` is 0 where the request failed when it was recorded. ``kind``, ``model`` and ``tenant`` are codes
    of ``RequestKind`` and of the stream's ``Names``. ``session`` and ``prefix_group`` are numbers of 63 bits that tell
    apart and mean nothing. Requests of one prefix group begin with the same tokens: ``prefix_tokens`` of this prompt
    also stood in an earlier request of its group, or in the answer to it.
    """

    arrival_s: Floats
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    kind: NDArray[np.int8]
    model: NDArray[np.int32]
    tenant: NDArray[np.int32]
    session: Ints
    prefix_group: Ints
    prefix_tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, rows: Any) -> RequestBlock:
        """The rows that an index, a mask or a slice chooses."""
        return RequestBlock(*(getattr(self, name)[rows] for name in _TYPES))

    def at(self, arrival_s: Floats) -> RequestBlock:
        """The same requests at other times."""
        return replace(self, arrival_s=arrival_s)

    def by_arrival(self) -> RequestBlock:
        """Sorted, equal arrivals in the order they stand in."""
        if len(self) < 2 or bool(np.all(self.arrival_s[1:] >= self.arrival_s[:-1])):
            return self
        return self.take(np.argsort(self.arrival_s, kind="stable"))


def request_block(arrival_s: Any, prompt_tokens: Any, output_tokens: Any, **columns: Any) -> RequestBlock:
    """A block of these columns; those not given hold ``NONE``, or no shared tokens."""
    length = len(arrival_s)
    given = {"arrival_s": arrival_s, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens, **columns}
    return RequestBlock(
        **{
            name: np.ascontiguousarray(given[name], dtype=kind)
            if name in given
            else np.full(length, 0 if name == "prefix_tokens" else NONE, dtype=kind)
            for name, kind in _TYPES.items()
        }
    )


def joined(blocks: Sequence[RequestBlock]) -> RequestBlock:
    """The rows of all blocks, in the order given."""
    if len(blocks) == 1:
        return blocks[0]
    return RequestBlock(
        *(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(RequestBlock))
    )


EMPTY = request_block((), (), ())

BlockMaker = Callable[[], Iterator[RequestBlock]]


def merged(makers: Sequence[BlockMaker]) -> Iterator[RequestBlock]:
    """Several streams of blocks as one, in order of arrival; those of one stream stay in their order."""
    streams = [make() for make in makers]
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        horizon_s = min(head.arrival_s[-1] for head in heads if head is not None)
        parts = []
        for index, head in enumerate(heads):
            if head is None:
                continue
            count = int(np.searchsorted(head.arrival_s, horizon_s, side="right"))
            if count:
                parts.append(head.take(slice(count)))
            heads[index] = head.take(slice(count, None)) if count < len(head) else next(streams[index], None)
        yield joined(parts).by_arrival()


class Names:
    """Codes of the names in a column, given in order of appearance. Bounded: a column of ever new names is none."""

    def __init__(self, what: str, names: Sequence[str] = ()) -> None:
        self.what = what
        self._names = list(names)
        self._codes = {name: code for code, name in enumerate(names)}

    def code(self, name: str) -> int:
        """The name's code, ``NONE`` for an empty one. Raises ``TraceError`` beyond 10,000 names."""
        if not name:
            return NONE
        code = self._codes.get(name)
        if code is None:
            if len(self._names) >= MOST_NAMES:
                raise TraceError(f"more than {MOST_NAMES} different {self.what}: this column does not name {self.what}")
            code = self._codes[name] = len(self._names)
            self._names.append(name)
        return code

    def name(self, code: int) -> str | None:
        return None if code == NONE else self._names[code]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)
