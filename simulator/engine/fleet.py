"""A fleet of engines in simulated time, advanced by ``kernel`` and read as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.engine import layout
from simulator.engine.compiled import times_compiled
from simulator.engine.kernel.entry_points import drop_in_flight, run
from simulator.engine.layout import Integers, Packed, Record, Records, State
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineCounters, IterationCost
from simulator.engine.routing import AFFINITY_SLACK, Routing
from simulator.engine.ticks import TICKS_PER_S, array_to_seconds, array_to_ticks, last_tick, to_seconds, to_ticks

Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike

NO_GROUP = -1
_BATCH = 65_536
"""Arrivals handed to the kernel at once: it cannot enlarge arrays, so there is room for all that a batch can cause."""

_HORIZON_S = 100 * 86_400
_LEAP_S = 20 * 86_400
"""Ticks of a fleet are 64 bits, 106 days: its origin follows it in leaps."""

_NONE = np.zeros(0, layout.ARRIVAL)
_REPLICA_TIMES = ("run_started_at", "free_at", "front_end_free_at")
_SLOT_TIMES = ("arrival_at", "queued_at", "first_scheduled_at", "first_token_at")
_TOLD = ("first_tokens", "completions", "refusals")
_LONG_PAST = 2**62
_EVENT_TIMES = ("at", *_SLOT_TIMES)
_RULES = {
    Routing.LEAST_LOADED: layout.LEAST_LOADED,
    Routing.ROUND_ROBIN: layout.ROUND_ROBIN,
    Routing.PREFIX_AFFINE: layout.PREFIX_AFFINE,
}


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """First tokens; each replica's in order of time."""

    request: Integers
    replica: Integers
    at: Floats


@dataclass(frozen=True, slots=True)
class Completions:
    """Finished requests, each replica's in order of ``at``, the last token's time; see ``Finished``."""

    request: Integers
    replica: Integers
    arrival_at: Floats
    queued_at: Floats
    first_scheduled_at: Floats
    first_token_at: Floats
    at: Floats
    preemptions: Integers
    cached_tokens: Integers
    output_tokens: Integers


@dataclass(frozen=True, slots=True)
class Refusals:
    """Requests that could not be served, when they arrived: too large for the whole KV cache of ``replica``, or
    (``replica`` -1) sent to a pool without an endpoint."""

    request: Integers
    replica: Integers
    at: Floats


class EngineFleet:
    """Replicas by index, requests by the caller's number, times in seconds; the rules are those of ``reference``.

    Time only goes forward: ``run_until`` (all replicas) or ``advance`` (one), and what arrives comes no earlier.
    All that is read is the state at the last ``run_until``. At one instant the order is that of ``Engine``.
    ``origin_at``: times are counted from there; near the first event they are exact to picoseconds.
    """

    def __init__(self, origin_at: float = 0.0) -> None:
        self._origin_s = math.floor(origin_at)
        self._started = 0
        self._free_indexes: list[int] = []
        self._count = 0
        self._arrivals = np.zeros(0, layout.ARRIVAL)
        self._arrival_ticks = np.zeros(0, np.int64)
        self._next_arrival = 0
        self._now = -math.inf
        self._one = np.zeros(1, layout.ARRIVAL)
        self._keep(
            State(
                fleet=np.zeros(1, layout.FLEET),
                replicas=np.zeros(1, layout.REPLICA),
                changes_at=np.zeros(1, np.int64),
                load=np.zeros(1, np.int64),
                slots=np.zeros(0, layout.SLOT),
                queues=np.zeros((1, layout.QUEUES), layout.QUEUE),
                decoding=np.zeros((1, 1), layout.DECODING),
                block_wanted=np.zeros((1, 1), np.int64),
                pools=np.zeros(1, layout.POOL),
                endpoints=np.zeros((1, 1), np.int64),
                groups=np.zeros(0, layout.GROUP),
                prefixes=np.zeros(0, layout.PREFIX),
                first_tokens=np.zeros(0, layout.FIRST_TOKEN),
                completions=np.zeros(0, layout.COMPLETION),
                refusals=np.zeros(0, layout.REFUSAL),
            )
        )
        self._totals["free_slot"] = layout.NOBODY

    def _keep(self, state: State) -> None:
        self._state = state
        self._packed: Packed = tuple(state)
        self._totals: Record = state.fleet[0]

    # -- replicas and pools

    def start(self, profile: EngineProfile) -> int:
        """A new, empty replica; its index, which may be that of one that was stopped."""
        if self._free_indexes:
            r = self._free_indexes.pop()
        else:
            r = self._count
            self._count += 1
        self._widen(r + 1, profile.max_num_seqs, profile.block_size)
        state = self._state
        state.queues[r] = 0
        state.block_wanted[r] = 0
        state.replicas[r] = 0
        state.load[r] = 0
        state.changes_at[r] = layout.NEVER
        self._started += 1
        self._fill(state.replicas[r], profile)
        return r

    def _fill(self, replica: Record, profile: EngineProfile) -> None:
        cost = IterationCost(profile)
        values = {
            "started": self._started,
            "base": cost.base,
            "per_prefill_token": cost.per_prefill_token,
            "per_decode_sequence": cost.per_decode_sequence,
            "per_kv_token": cost.per_kv_token,
            "front_end_per_request": round(profile.front_end_s * TICKS_PER_S),
            "front_end_per_token": round(profile.front_end_s_per_token * TICKS_PER_S),
            "wakeup_latency": round(profile.wakeup_latency_s * TICKS_PER_S),
            "max_num_seqs": profile.max_num_seqs,
            "max_num_batched_tokens": profile.max_num_batched_tokens,
            "block_size": profile.block_size,
            "num_blocks": profile.num_blocks,
            "free_blocks": profile.num_blocks,
            "free_at": -_LONG_PAST,
            "partial": layout.NOBODY,
        }
        for name, value in values.items():
            replica[name] = value

    def _widen(self, replicas: int, max_num_seqs: int, block_size: int) -> None:
        state = self._state
        if len(state.replicas) < replicas:
            rows = 2 * replicas
            state = state._replace(
                replicas=_longer(state.replicas, rows),
                changes_at=_longer(state.changes_at, rows),
                load=_longer(state.load, rows),
                queues=_longer(state.queues, rows),
            )
        rows = len(state.replicas)
        self._keep(
            state._replace(
                # Four more than needed: in rows of whole pages all tops would compete for one place in the processor's
                # cache.
                decoding=_wider(state.decoding, rows, max_num_seqs + 4),
                block_wanted=_wider(state.block_wanted, rows, block_size),
            )
        )

    def stop(self, replica: int) -> Integers:
        """A replica ends at the time that it has reached; the numbers of the requests that were in flight on it.

        Raises ``ValueError`` if a pool still routes to it.
        """
        for pool in range(len(self._state.pools)):
            if replica in self.endpoints(pool):
                raise ValueError(f"replica {replica} is still an endpoint of pool {pool}")
        slots = self._state.slots
        dropped = slots[slots["replica"] == replica]
        drop_in_flight(self._packed, replica, layout.NOBODY)
        self._state.replicas[replica]["run_length"] = 0
        self._state.changes_at[replica] = layout.NEVER
        self._free_indexes.append(replica)
        return np.sort(dropped["request"])

    def route(
        self, pool: int, replicas: Sequence[int], rule: Routing = Routing.LEAST_LOADED, slack: int = AFFINITY_SLACK
    ) -> None:
        """From now on ``pool``'s requests go to these replicas."""
        self._know_pools(pool)
        endpoints = _wider(self._state.endpoints, len(self._state.pools), len(replicas))
        self._keep(self._state._replace(endpoints=endpoints))
        endpoints[pool, : len(replicas)] = replicas
        record: Record = self._state.pools[pool]
        record["rule"], record["slack"], record["endpoints"] = _RULES[rule], slack, len(replicas)

    def endpoints(self, pool: int) -> list[int]:
        """The replicas that ``pool``'s requests go to."""
        endpoints: list[int] = self._state.endpoints[pool, : self._state.pools[pool]["endpoints"]].tolist()
        return endpoints

    # -- what happens

    def submit(
        self, at: Numbers, prompt_tokens: Numbers, output_tokens: Numbers, requests: Numbers, *, pool: Numbers = 0,
        cached_tokens: Numbers = 0, group: Numbers = NO_GROUP, prefix_tokens: Numbers = 0,
    ) -> None:  # fmt: skip
        """Requests that will arrive, in order of ``at``, none before what was run to already. They come in between what
        was submitted earlier, after what has the same time.

        Each argument is an array or one value for all; see ``EngineRequest`` for their meaning. ``requests`` are the
        caller's numbers of them, from 0. Groups are numbered from 0 too, and one ``group`` has one prefix; what comes
        to a pool without endpoints is refused. Raises ``ValueError`` for lengths and numbers that no request has and
        for times that go back.
        """
        if np.any(np.asarray(at) < self._now):
            raise ValueError(f"requests arrive before {self._now}, to which the fleet has run")
        given = self._made(at, prompt_tokens, output_tokens, requests, pool, cached_tokens, group, prefix_tokens)
        if np.any(np.diff(given["at"]) < 0):
            raise ValueError("requests are submitted in order of their arrival")
        queued = self._arrivals[self._next_arrival :]
        if len(queued):
            places = np.searchsorted(queued["at"], given["at"], side="right")
            given = np.insert(queued, places, given)
        self._arrivals, self._next_arrival = given, 0
        self._arrival_ticks = given["at"].copy()

    def add(
        self, replica: int, at: float, prompt_tokens: int, output_tokens: int, request: int, *,
        cached_tokens: int = 0, group: int = NO_GROUP, prefix_tokens: int = 0,
    ) -> None:  # fmt: skip
        """One request arrives at one replica, whatever a router would do. Lengths are those of an ``EngineRequest``
        that ``check_fits`` the replica."""
        if group >= len(self._state.groups):
            self._know_groups(group)
        self._reserve(1)
        ticks = to_ticks(at) - self._origin_s * TICKS_PER_S
        self._one[0] = (request, ticks, 0, prompt_tokens, output_tokens, cached_tokens, group, prefix_tokens)
        run(self._packed, self._one, replica, 0, 0, 0)

    def _made(
        self, at: Numbers, prompt_tokens: Numbers, output_tokens: Numbers, requests: Numbers, pool: Numbers,
        cached_tokens: Numbers, group: Numbers, prefix_tokens: Numbers,
    ) -> Records:  # fmt: skip
        seconds = np.atleast_1d(np.asarray(at, np.float64))
        made = np.zeros(len(seconds), layout.ARRIVAL)
        if np.any(seconds > self._origin_s + _HORIZON_S):
            raise ValueError(f"arrivals more than {_HORIZON_S / 86_400:.0f} days ahead cannot be counted yet")
        made["at"] = array_to_ticks(seconds, self._origin_s)
        made["request"], made["pool"], made["group"] = requests, pool, group
        made["prompt_tokens"], made["output_tokens"] = prompt_tokens, output_tokens
        made["cached_tokens"], made["prefix_tokens"] = cached_tokens, prefix_tokens
        prompts = made["prompt_tokens"]
        if np.any((prompts < 1) | (made["output_tokens"] < 1)):
            raise ValueError("prompt and output have at least one token each")
        if np.any((made["cached_tokens"] < 0) | (made["cached_tokens"] >= prompts)):
            raise ValueError("at least one prompt token is computed, never cached")
        if np.any((made["prefix_tokens"] < 0) | (made["prefix_tokens"] > prompts)):
            raise ValueError("the shared prefix is a part of the prompt")
        if np.any((made["request"] < 0) | (made["pool"] < 0) | (made["group"] < NO_GROUP)):
            raise ValueError("requests, pools and groups are numbered from 0")
        self._know_groups(int(made["group"].max(initial=NO_GROUP)))
        self._know_pools(int(made["pool"].max(initial=0)))
        return made

    def _know_pools(self, largest: int) -> None:
        pools = _longer(self._state.pools, largest + 1)
        if pools is not self._state.pools:
            columns = self._state.endpoints.shape[1]
            self._keep(self._state._replace(pools=pools, endpoints=_wider(self._state.endpoints, len(pools), columns)))

    def _know_groups(self, largest: int) -> None:
        known = self._state.groups
        groups = _longer(known, largest + 1)
        if groups is not known:
            for name in layout.GROUP.names or ():
                groups[name][len(known) :] = layout.NOBODY
            self._keep(self._state._replace(groups=groups))

    def run_until(self, until: float) -> None:
        """Let all happen that does by ``until`` (``math.inf``: until nothing is left to do).

        Raises ``ValueError`` on the way through months if what was told in the first was not taken.
        """
        for leap in self._leaps(until):
            self._run_to(self._limit(leap))
        self._now = until if until < math.inf else self._now

    def _leaps(self, until: float) -> Iterator[float]:
        """Times on the way to ``until``, between which the origin moves along, and ``until``."""
        while until < math.inf and until > self._origin_s + 2 * _LEAP_S:
            yield self._origin_s + 2.0 * _LEAP_S
            self._move_origin(_LEAP_S)
        yield until

    def _run_to(self, limit: int) -> None:
        due = int(self._arrival_ticks.searchsorted(limit, side="right"))
        last = False
        while not last:
            batch = self._arrivals[self._next_arrival : min(due, self._next_arrival + _BATCH)]
            self._next_arrival += len(batch)
            last = self._next_arrival >= due
            if len(batch):
                self._reserve(len(batch))
            run(self._packed, batch, layout.NOBODY, 0, self._count if last else 0, limit)

    def advance(self, replica: int, until: float) -> None:
        """``run_until`` for one replica, without what was submitted."""
        for leap in self._leaps(until):
            run(self._packed, _NONE, layout.NOBODY, replica, replica + 1, self._limit(leap))

    def abort(self, request: int) -> bool:
        """Drop a request, at the time that its replica has reached; False if there is none (finished is success).

        The iteration in progress lasts as long as it was going to; what was planned after it is planned anew.
        """
        return drop_in_flight(self._packed, layout.NOBODY, request) > 0

    def _limit(self, until: float) -> int:
        """The last tick of ``until``; for ever ends just before ``NEVER``, at which nothing happens."""
        return min(last_tick(until) - self._origin_s * TICKS_PER_S, layout.NEVER - 1)

    def _move_origin(self, seconds: int) -> None:
        ticks = seconds * TICKS_PER_S
        state, totals = self._state, self._totals
        state.changes_at[state.changes_at != layout.NEVER] -= ticks
        for records, names in ((state.replicas, _REPLICA_TIMES), (state.slots, _SLOT_TIMES)):
            for name in names:
                # What is long past, as the last work of an idle replica, stays so and does not wrap around.
                records[name] = np.maximum(records[name], -_LONG_PAST) - ticks
        self._arrivals = self._arrivals[self._next_arrival :]
        self._arrivals["at"] -= ticks
        self._arrival_ticks = self._arrivals["at"].copy()
        self._next_arrival = 0
        for kind in _TOLD:
            events: Records = getattr(state, kind)
            told = events[: totals[kind]]
            for name in set(_EVENT_TIMES).intersection(events.dtype.names or ()):
                told[name] -= ticks
            if np.any(told["at"] < -_LONG_PAST):
                raise ValueError("take first tokens, completions and refusals before running on for months")
        self._origin_s += seconds

    def _reserve(self, arrivals: int) -> None:
        """Room for whatever so many arrivals, and those in flight, can cause."""
        state = self._state
        _, prefixes, _, in_flight, first_tokens, completions, refusals, _ = self._totals.item()
        most = in_flight + arrivals
        wanted = {
            "slots": most,
            "first_tokens": first_tokens + most,
            "completions": completions + most,
            "refusals": refusals + arrivals,
            "prefixes": prefixes + arrivals if len(state.groups) else 0,
        }
        short: dict[str, Any] = {
            name: _longer(getattr(state, name), length)
            for name, length in wanted.items()
            if len(getattr(state, name)) < length
        }
        if short:
            self._keep(state._replace(**short))
            self._link_free_slots(len(state.slots))

    def _link_free_slots(self, known: int) -> None:
        """Put the slots from ``known`` on, which are new, on the list of those that are free."""
        slots = self._state.slots
        if len(slots) > known:
            new = np.arange(known, len(slots))
            slots["replica"][new] = layout.NOBODY
            slots["next"][new] = np.append(new[1:], self._totals["free_slot"])
            self._totals["free_slot"] = known

    # -- what is read

    @property
    def origin_s(self) -> int:
        return self._origin_s

    def running(self) -> Integers:
        """Sequences in the batch, by replica."""
        replicas = self._state.replicas[: self._count]
        prefilled = self._state.queues[: self._count, layout.PREFILLED]["length"]
        running: Integers = replicas["decoding"] + prefilled + (replicas["partial"] != layout.NOBODY)
        return running

    def waiting(self) -> Integers:
        """Requests that the scheduler sees and has not admitted, by replica."""
        waiting: Integers = self._state.queues[: self._count, layout.WAITING]["length"].copy()
        return waiting

    def in_flight(self) -> Integers:
        """Requests received and not ended, by replica: running, waiting and those in the front end."""
        in_flight: Integers = self._state.load[: self._count] // layout.LOAD
        return in_flight

    def kv_use(self) -> Floats:
        """Share of the blocks that are held, 0 to 1, by replica."""
        replicas = self._state.replicas[: self._count]
        wanted = self._state.block_wanted[np.arange(self._count), replicas["phase"]] * (replicas["run_length"] > 0)
        use: Floats = 1 - (replicas["free_blocks"] - wanted) / replicas["num_blocks"]
        return use

    def total(self, name: str) -> Integers:
        """One field of ``EngineCounters``, by replica."""
        totals: Integers = self._state.replicas[name][: self._count].copy()
        return totals

    def busy_s(self, replica: int) -> float:
        """For how long a replica has computed: its iterations that have ended."""
        return float(to_seconds(int(self._state.replicas[replica]["busy"])))

    def counters(self, replica: int) -> EngineCounters:
        record: Record = self._state.replicas[replica]
        return EngineCounters(
            **{
                name: int(record[name])
                for name in (
                    "prompt_tokens",
                    "cached_tokens",
                    "generation_tokens",
                    "preemptions",
                    "finished",
                    "aborted",
                )
            }
        )

    def changes_at(self, replica: int) -> float | None:
        """Before this time no request of the replica gets its first or last token; None if there is nothing to do."""
        ticks = int(self._state.changes_at[replica])
        return None if ticks == layout.NEVER else to_seconds(ticks + self._origin_s * TICKS_PER_S)

    def records(self, replica: int) -> tuple[Record, Records, Integers]:
        """One replica's ``REPLICA`` record, ``QUEUE`` records and row of ``block_wanted``, which stay true until the
        next ``start``: for who keeps one engine and looks often."""
        state = self._state
        return state.replicas[replica], state.queues[replica], state.block_wanted[replica]

    # -- what is read back, once

    def take_first_tokens(self) -> FirstTokens:
        """Those that came since the last call."""
        events = self._take("first_tokens", self._state.first_tokens)
        return FirstTokens(events["request"].copy(), events["replica"].copy(), self._seconds(events["at"]))

    def take_completions(self) -> Completions:
        """Requests that finished since the last call."""
        events = self._take("completions", self._state.completions)
        columns: dict[str, Any] = {
            name: self._seconds(events[name]) if name in _EVENT_TIMES else events[name].copy()
            for name in Completions.__slots__
        }
        return Completions(**columns)

    def take_told(self) -> tuple[Records, Records]:
        """First tokens and completions since the last call as they are kept (ticks since ``origin_s``), for compiled
        code: true until the fleet runs on."""
        return self._take("first_tokens", self._state.first_tokens), self._take("completions", self._state.completions)

    @property
    def refused(self) -> bool:
        """Whether any request was refused since the last ``take_refusals``."""
        return bool(self._totals["refusals"])

    def take_refusals(self) -> Refusals:
        """Requests refused since the last call."""
        events = self._take("refusals", self._state.refusals)
        return Refusals(events["request"].copy(), events["replica"].copy(), self._seconds(events["at"]))

    def take_few(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """First tokens and completions as plain numbers, as in ``layout`` (ticks since ``origin_s``), in no order.

        For who takes a few at a time: making arrays of one or two would cost more than simulating them.
        """
        _, _, _, _, first_tokens, completions, _, _ = self._totals.item()
        told = (
            self._state.first_tokens[:first_tokens].tolist() if first_tokens else [],
            self._state.completions[:completions].tolist() if completions else [],
        )
        self._totals["first_tokens"] = self._totals["completions"] = 0
        return told

    def _take(self, kind: str, events: Records) -> Records:
        told = events[: self._totals[kind]]
        self._totals[kind] = 0
        return told

    def _seconds(self, ticks: Integers) -> Floats:
        return array_to_seconds(ticks, self._origin_s)


def make_ready() -> bool:
    """Have the kernel compiled, or read from the disk, before it is needed: whether it had to be compiled.

    That takes some 20 s the first time on a machine, a third of a second later. Who calls this knows how long it took
    and says so.
    """
    compiled_before = times_compiled(run) + times_compiled(drop_in_flight)
    run(EngineFleet()._packed, _NONE, layout.NOBODY, 0, 0, 0)
    drop_in_flight(EngineFleet()._packed, layout.NOBODY, layout.NOBODY)
    return times_compiled(run) + times_compiled(drop_in_flight) > compiled_before


def _longer(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """``array`` if it is long enough, else a copy of at least ``length`` and twice its own."""
    if len(array) >= length:
        return array
    longer = np.zeros((max(length, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def _wider(array: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """``array`` if it is large enough, else a copy that is."""
    if len(array) >= rows and array.shape[1] >= columns:
        return array
    wider = np.zeros((max(rows, len(array)), max(columns, array.shape[1])), array.dtype)
    wider[: len(array), : array.shape[1]] = array
    return wider
