"""Who starts now: Slurm's order of jobs with EASY backfill (Lifka, JSSPP 1995).

Jobs are taken by rank. The first of a partition that does not fit gets a reservation: the earliest time, by the limits
of what runs, at which it will fit, and nodes for it. A job behind it starts now if it ends by then, or if the reserved
nodes have room for both: so it never delays the reservation. Where partitions share nodes each first job has its own
reservation, which no other may delay either.

Nodes are reserved rather than counted, those first that are not free now. On equal nodes taken whole that is the same
rule; it also serves GPUs shared on one node, partitions of unequal nodes, and maintenance.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from simulator.cluster.calendar import Calendar
from simulator.cluster.jobs import Job, JobState
from simulator.cluster.nodes import Capacity, NodeSet, lowest
from simulator.cluster.spec import ClusterSpec, Maintenance, PreemptMode

_rank = attrgetter("rank")
_end = attrgetter("ends_at", "job_id")


@dataclass(slots=True)
class Reservation:
    """A waiting job's place: from ``at`` to ``until`` on ``nodes``. ``beside`` is what is free at ``at`` beside it."""

    job: Job
    at: float
    until: float
    nodes: NodeSet
    beside: Capacity


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one pass decided: jobs that start (their nodes are set), and those that must make room for others."""

    started: list[Job]
    preempted: list[Job]


class Backfill:
    """The scheduler's view of the cluster. ``queue`` is by rank, ``running`` by expected end."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.capacity = Capacity.of(spec.gpus_by_node)
        self.up: NodeSet = self.capacity.with_free[0]
        self.calendar = Calendar(spec.start_rules)
        self.queue: list[Job] = []
        self.running: list[Job] = []
        self.holds: dict[str, Maintenance] = {hold.name: hold for hold in spec.maintenance}
        self._partitions = {partition.name: partition for partition in spec.partitions}
        self._preempts = any(partition.preempt is not PreemptMode.OFF for partition in spec.partitions)
        self._depth = spec.backfill_depth
        self._reservations: list[Reservation] = []
        self._arrived: list[Job] = []
        self._changed = True

    # -- what happens to the cluster

    def enqueue(self, job: Job) -> None:
        """It waits. If nothing else has changed, only the newcomer needs a look in the next pass: nobody whom it may
        not overtake could start before, and time alone makes room for no one."""
        insort(self.queue, job, key=_rank)
        self._arrived.append(job)
        if self._reservations and job.rank < self._reservations[-1].job.rank:
            self._changed = True

    def withdraw(self, job: Job) -> None:
        """It waits no longer."""
        del self.queue[bisect_left(self.queue, job.rank, key=_rank)]
        self._changed = True

    def release(self, job: Job) -> None:
        """It runs no longer."""
        del self.running[bisect_left(self.running, _end(job), key=_end)]
        self.capacity.give(job.nodes, job.request.gpus)
        self._changed = True

    def shorten(self, job: Job, ends_at: float) -> None:
        """A running job is to end earlier."""
        del self.running[bisect_left(self.running, _end(job), key=_end)]
        job.ends_at = ends_at
        insort(self.running, job, key=_end)
        self._changed = True

    def changed(self) -> None:
        """Rules, holds or nodes are not what they were: the next pass looks at everything."""
        self._changed = True

    def expected_starts(self) -> dict[int, float]:
        return {reservation.job.job_id: reservation.at for reservation in self._reservations}

    # -- passes

    def decide(self, now: float) -> Decisions:
        """One pass over the queue. Everything that happens at ``now`` must have been told before. Jobs that may not
        start now by the site's rules are passed over as if they were not there."""
        decisions = Decisions([], [])
        if self._changed:
            self._changed = False
            self._reservations = []
            candidates = self.queue[: self._depth]
        else:
            candidates = sorted(self._arrived, key=_rank)
        self._arrived = []
        if not candidates:
            return decisions
        longest_s = self.calendar.longest(now)
        heads = {reservation.job.request.partition for reservation in self._reservations}
        room: dict[tuple[str, int], int] = {}
        for job in candidates:
            request, place = job.request, job.place
            free = room.get(place)
            if free is None:
                free = room[place] = self._free_now(job).bit_count()
            if request.nodes > free and request.partition in heads:
                continue
            if request.limit_s > longest_s or job.eligible_at > now:
                continue
            fit = self._fit_now(job, now)
            if fit is not None:
                self._start(job, fit, now)
                decisions.started.append(job)
                room.clear()
            elif request.partition not in heads:
                reservation = self._reserve_or_preempt(job, now, decisions)
                if reservation is not None:
                    heads.add(request.partition)
                    self._reservations.append(reservation)
        if decisions.started:
            self.queue = [job for job in self.queue if job.state is JobState.PENDING]
        return decisions

    def _free_now(self, job: Job) -> NodeSet:
        return self.capacity.with_free[job.request.gpus] & job.allowed & self.up

    def _fit_now(self, job: Job, now: float) -> NodeSet | None:
        """Nodes on which it may start now without delaying a reservation; None if there are too few."""
        request = job.request
        fit = self._free_now(job)
        if fit.bit_count() < request.nodes:
            return None
        ends_at = now + request.limit_s
        for reservation in self._reservations:
            if reservation.at < ends_at:
                fit &= reservation.beside.with_free[request.gpus]
        if self.holds:
            fit &= ~self._held(now, ends_at)
        return fit if fit.bit_count() >= request.nodes else None

    def _start(self, job: Job, fit: NodeSet, now: float) -> None:
        request = job.request
        nodes = self.capacity.tightest(fit, request.nodes, request.gpus)
        job.nodes, job.state, job.started_at = nodes, JobState.RUNNING, now
        job.ends_at = now + request.limit_s
        self.capacity.take(nodes, request.gpus)
        insort(self.running, job, key=_end)
        for reservation in self._reservations:
            if reservation.at < job.ends_at:
                reservation.beside.take(nodes, request.gpus)

    def _held(self, begins_at: float, ends_at: float) -> NodeSet:
        """Nodes under maintenance at some time of this span."""
        held = 0
        for hold in self.holds.values():
            if hold.begins_at < ends_at and begins_at < hold.ends_at:
                held |= hold.nodes
        return held

    # -- reservations

    def _reserve(self, job: Job, now: float) -> Reservation | None:
        """The earliest place for it beside what runs, what is held and what is reserved. None if it fits never, as
        when nodes are down: nobody waits for what may not come."""
        request = job.request
        gpus, limit_s = request.gpus, request.limit_s
        allowed, running = job.allowed & self.up, self.running
        capacity = self.capacity.copy()
        moments = self._moments(now)
        ended = 0
        at = now
        while True:
            at = self.calendar.earliest(limit_s, at)
            if at == math.inf:
                return None
            while ended < len(running) and running[ended].ends_at <= at:
                other = running[ended]
                capacity.give(other.nodes, other.request.gpus)
                ended += 1
            fit = capacity.with_free[gpus] & allowed
            if fit.bit_count() >= request.nodes:
                fit &= ~self._taken(at, at + limit_s)
                if fit.bit_count() >= request.nodes:
                    nodes = self._away_from_free(fit, request.nodes, gpus)
                    capacity.take(nodes, gpus)
                    return Reservation(job, at, at + limit_s, nodes, capacity)
            later = running[ended].ends_at if ended < len(running) else math.inf
            while moments and moments[0] <= at:
                heapq.heappop(moments)
            at = min(later, moments[0] if moments else math.inf)
            if at == math.inf:
                return None

    def _moments(self, now: float) -> list[float]:
        """When room may come otherwise than by a job's end."""
        moments = [hold.ends_at for hold in self.holds.values() if now < hold.ends_at < math.inf]
        moments += [reservation.until for reservation in self._reservations]
        heapq.heapify(moments)
        return moments

    def _taken(self, begins_at: float, ends_at: float) -> NodeSet:
        """Nodes held or reserved at some time of this span; a node reserved in part counts as a whole."""
        taken = self._held(begins_at, ends_at)
        for reservation in self._reservations:
            if reservation.at < ends_at and begins_at < reservation.until:
                taken |= reservation.nodes
        return taken

    def _away_from_free(self, fit: NodeSet, count: int, gpus: int) -> NodeSet:
        """Of these nodes ``count``, those first that are not free now: what is free now stays for backfill."""
        busy = lowest(fit & ~self.capacity.with_free[gpus], count)
        missing = count - busy.bit_count()
        return busy | lowest(fit & ~busy, missing) if missing else busy

    # -- preemption

    def _reserve_or_preempt(self, job: Job, now: float, decisions: Decisions) -> Reservation | None:
        reservation = self._reserve(job, now)
        if not self._preempts:
            return reservation
        victims = self._victims(job, now, math.inf if reservation is None else reservation.at)
        for victim in victims:
            victim.preempted = True
            grace_s = self._partitions[victim.request.partition].grace_s
            self.shorten(victim, min(victim.ends_at, now + grace_s))
            decisions.preempted.append(victim)
        return self._reserve(job, now) if victims else reservation

    def _victims(self, job: Job, now: float, fits_at: float) -> list[Job]:
        """Whom to end so that ``job`` fits once their grace is over; none if it fits as early without, or never."""
        request = job.request
        candidates = sorted(self._preemptible(job), key=lambda other: (other.rank, other.started_at), reverse=True)
        if not candidates:
            return []
        ready_at = now + max(self._partitions[other.request.partition].grace_s for other in candidates)
        if fits_at <= ready_at:
            return []
        possible = job.allowed & self.up & ~self._taken(now, ready_at + request.limit_s)
        capacity = self.capacity.copy()
        for other in self.running:
            if other.ends_at <= ready_at:
                capacity.give(other.nodes, other.request.gpus)
        victims: list[Job] = []
        for other in candidates:
            if (capacity.with_free[request.gpus] & possible).bit_count() >= request.nodes:
                break
            if other.ends_at > ready_at:
                capacity.give(other.nodes, other.request.gpus)
            victims.append(other)
        if (capacity.with_free[request.gpus] & possible).bit_count() < request.nodes:
            return []
        return list(self._needed(victims, capacity, possible, job, ready_at))

    def _preemptible(self, job: Job) -> Iterator[Job]:
        tier = self._partitions[job.request.partition].tier
        for other in self.running:
            partition = self._partitions[other.request.partition]
            if (
                partition.preempt is not PreemptMode.OFF
                and partition.tier < tier
                and not other.preempted
                and other.nodes & job.allowed
            ):
                yield other

    def _needed(
        self, victims: list[Job], capacity: Capacity, possible: NodeSet, job: Job, ready_at: float
    ) -> Iterator[Job]:
        """Without those whose nodes turned out to be of no use, tried in the order of their choice."""
        request = job.request
        for victim in victims:
            if victim.ends_at <= ready_at:
                continue
            capacity.take(victim.nodes, victim.request.gpus)
            if (capacity.with_free[request.gpus] & possible).bit_count() < request.nodes:
                capacity.give(victim.nodes, victim.request.gpus)
                yield victim
