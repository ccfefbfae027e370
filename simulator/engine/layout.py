"""The arrays in which a fleet's state lies, one record for each replica, request in flight, or event.

All times are ticks (see ``requests``) since the fleet's origin. Records rather than a plain array for each field: the
compiled functions pass one replica or one sequence by its name, and ``array["field"]`` is still a column of numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from simulator.engine.compiled import fingerprint

Records: TypeAlias = npt.NDArray[np.void]
Integers: TypeAlias = npt.NDArray[np.int64]
Record: TypeAlias = Any
"""One element of ``Records``: compiled code reads and writes its fields as attributes, which numpy's types do not
know."""


NOBODY = -1
NEVER = 2**63 - 1
LEAST_LOADED, ROUND_ROBIN, PREFIX_AFFINE = 0, 1, 2


def _record(*names: str, small: tuple[str, ...] = ()) -> np.dtype[np.void]:
    """Fields of 64 bits, and ``small`` ones of 32."""
    return np.dtype([(name, np.int64) for name in names] + [(name, np.int32) for name in small])


REPLICA = _record(
    "started",  # number of this replica among all that ever were: its index is used again
    # The profile.
    "base", "per_prefill_token", "per_decode_sequence", "per_kv_token", "front_end_per_request", "front_end_per_token",
    "wakeup_latency",
    "max_num_seqs", "max_num_batched_tokens", "block_size", "num_blocks",
    # The run in progress: ``length`` iterations from ``started_at`` (0: none), the first of ``first`` ticks and each
    # later one ``growth`` longer.
    "run_started_at", "run_first", "run_growth", "run_length",
    # The scheduler. ``clock`` counts iterations, ``phase`` is it modulo the block size; ``partial`` is the slot whose
    # prompt is computed in chunks.
    "free_at", "clock", "phase", "decoding", "kv_tokens", "free_blocks", "freed_blocks", "partial",
    "front_end_free_at", "received",
    # Totals, as in ``EngineCounters``.
    "prompt_tokens", "cached_tokens", "generation_tokens", "preemptions", "finished", "aborted",
    # Ticks that its iterations took, of those that have ended.
    "busy",
)  # fmt: skip

QUEUE = _record("first", "last", "length")
FRONT_END, WAITING, PREFILLED, QUEUES = 0, 1, 2, 3
"""A replica's queues: before the scheduler, before admission, and computed by the iteration in progress."""

LOAD = 2**40

SLOT = _record(
    "request", "order",
    "arrival_at", "queued_at", "first_scheduled_at", "first_token_at",
    # While it decodes: tokens in cache minus clock, and the clock at its last token.
    "offset", "finish_clock",
    small=(
        "replica", "next",  # replica is -1 in a slot that is free
        "prompt_tokens", "output_tokens", "given_cached_tokens", "prefix", "prefix_tokens",
        "generated", "cached_tokens", "preemptions",
        "computed", "prefill_target", "blocks",  # while its prompt is computed
        "phase",  # while it decodes: of the clock, when it takes a block
    ),
)  # fmt: skip
"""A request in flight, in 120 bytes: those of a busy fleet fill the processor's cache. Slots are used again, so that
memory follows the load and not the trace."""

DECODING = _record("finish_clock", "slot")
"""An entry of a replica's heap of decoding sequences, the first to finish on top."""

PREFIX = _record("replica", "started", "blocks", "users", "freed_before", "next")
"""What one replica holds of one group's prefix, see ``prefix_cache``; linked by group."""

GROUP = _record("first", "affine")
"""A group of requests with a common prefix: its first ``PREFIX``, and the replica that got its last request."""

POOL = _record("rule", "slack", "endpoints", "cursor")
"""One set of endpoints and how requests are routed to them."""

FLEET = _record(
    "free_slot", "prefixes", "routed", "in_flight", "first_tokens", "completions", "refusals",
    f"compiled_from_{fingerprint(Path(__file__).parent)}",
)  # fmt: skip
"""The last field holds nothing: a change of the sources changes its name, so the type of what is compiled, and numba
then does not take its copy on disk for a fresh one. It looks for changes in the entry points' own file only."""

ARRIVAL = _record(
    "request", "at", "pool", "prompt_tokens", "output_tokens", "cached_tokens", "group", "prefix_tokens",
)  # fmt: skip

FIRST_TOKEN = _record("request", "replica", "at", "order")

COMPLETION = _record(
    "request", "replica", "arrival_at", "queued_at", "first_scheduled_at", "first_token_at", "at", "preemptions",
    "cached_tokens", "output_tokens", "order",
)  # fmt: skip


REFUSAL = _record("request", "replica", "at")
"""A request that its replica's KV cache could never hold, or (replica -1) whose pool had no endpoint."""


class State(NamedTuple):
    """Everything that a fleet is. One row of ``queues``, ``decoding`` and ``block_wanted`` for each replica.

    ``changes_at`` and ``load`` are what routing reads of every endpoint at every arrival, so they lie close together:
    no request of the replica ends before that tick; its requests in flight, times ``LOAD``, and in the lower bits the
    number of the routing decision that chose it last, so that the lesser ``load`` is the endpoint to choose.
    """

    fleet: Records
    replicas: Records
    changes_at: Integers
    load: Integers
    slots: Records
    queues: Records
    decoding: Records
    block_wanted: Integers
    pools: Records
    endpoints: Integers
    groups: Records
    prefixes: Records
    first_tokens: Records
    completions: Records
    refusals: Records


Packed: TypeAlias = tuple[Any, ...]
"""``tuple(state)``."""
