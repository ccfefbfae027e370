"""Conversations: how many requests one has, how long its user thinks, and how its prompts grow.

Each further prompt of a session repeats all that was said and adds to it, so what was said is a prefix that an engine
may still have. A ``Script`` holds sessions in full, whatever becomes of them: ``flowing`` lets them run open loop, at
times fixed in advance; ``traces.clients`` lets the answers decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from traces.blocks import EMPTY, Bools, Floats, Ints, RequestBlock, joined
from traces.lengths import TokenQuantiles

NOMINAL_TOKEN_S = 0.02
"""Where nobody waits for real answers, and where a log does not say how long they took, a token takes this long: 50 a
second, what vLLM streams to one user at moderate load. Fitting and generating use the same value, so it cancels in
the times between requests."""


@dataclass(frozen=True, slots=True)
class SessionShape:
    """``turns`` is the mean number of requests of a session, geometrically distributed. A pause, from the end of an
    answer to the next request, is lognormal. ``added`` are the tokens that a further prompt adds to what was said. A
    session ends before prompt and answer exceed ``longest_tokens``."""

    turns: float
    pause_median_s: float
    pause_sigma: float
    added: TokenQuantiles
    longest_tokens: int = 131_072

    def draw_turns(self, random: np.random.Generator, count: int) -> Ints:
        return random.geometric(1 / self.turns, count)

    def draw_pauses(self, random: np.random.Generator, count: int) -> Floats:
        pauses: Floats = self.pause_median_s * np.exp(self.pause_sigma * random.standard_normal(count))
        return pauses


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """Sessions in full, in order of their beginnings; the requests of one stand together, in order.

    ``block.arrival_s`` is when the row's session begins; ``first`` marks its first request; ``pause_s`` is the time
    from the end of the previous answer to this request, of no meaning for a first one.
    """

    block: RequestBlock
    first: Bools
    pause_s: Floats

    def __len__(self) -> int:
        return len(self.block)


def script_of(block: RequestBlock) -> Script:
    """Requests as sessions of one request each: what a trace has recorded comes when it was recorded."""
    return Script(block, np.ones(len(block), dtype=np.bool_), np.zeros(len(block)))


def lengthened(script: Script, shape: SessionShape | None) -> Script:
    """``script``, whose prompts are what each turn adds, with the whole prompts; sessions too long are cut short."""
    if shape is None:
        return script
    added, output = script.block.prompt_tokens.astype(np.int64), script.block.output_tokens.astype(np.int64)
    said = _within_session(added + output, script.first)
    block = replace(
        script.block, prompt_tokens=np.minimum(said + added, 2**31 - 1).astype(np.int32),
        prefix_tokens=np.minimum(said, 2**31 - 1).astype(np.int32),
    )  # fmt: skip
    keep = script.first | (said + added + output <= shape.longest_tokens)
    return Script(block.take(keep), script.first[keep], script.pause_s[keep])


def _within_session(values: Ints, first: Bools) -> Ints:
    """The sum of the earlier values of the same session."""
    before = np.cumsum(values) - values
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(values)))
    within: Ints = before - np.repeat(before[starts], lengths)
    return within


def flowing(scripts: Iterable[Script], end_s: float) -> Iterator[RequestBlock]:
    """Open loop: every request of the scripts before ``end_s``, in order of arrival, after answers of nominal length.

    Memory grows with the requests that open sessions still have before them.
    """
    late = EMPTY
    for script in scripts:
        if not len(script):
            continue
        answered_s = script.block.output_tokens * NOMINAL_TOKEN_S
        until_next_s = answered_s + np.append(script.pause_s[1:], 0.0)
        microseconds = _within_session(np.rint(until_next_s * 1e6).astype(np.int64), script.first)
        block = script.block.at(script.block.arrival_s + microseconds / 1e6)
        together = joined((late, block.take(block.arrival_s < end_s))).by_arrival()
        ready = int(np.searchsorted(together.arrival_s, script.block.arrival_s[-1], side="right"))
        if ready:
            yield together.take(slice(ready))
        late = together.take(slice(ready, None))
    if len(late):
        yield late
