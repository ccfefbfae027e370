"""The simulated Slurm against a real one on this machine: thirty short jobs in two partitions, start by start.

The real Slurm (its version is told) has four pretended nodes that jobs take whole, ``inference`` before ``batch``, and
plain EASY: only the first waiting job of each partition has a reservation (``bf_job_part_count_reserve=1``). The
simulated one gets the same submissions, sizes and limits, and as run times those that the real jobs had. The jobs are
drawn so that the model decides alike whether its scheduler looks at once or each one to three seconds: what is compared
are the rules, not who wins a race. The model has no delay between an end and the start that it allows; beside it stands
the model whose jobs hold their nodes for the median delay of the jobs that found room at once. Null: each job waits for
the median of the first half's waits; and jobs start as they were submitted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

from accuracy.base import Cell, Report, Table, Tell, skill
from simulator.cluster.jobs import Ended, JobRequest, Started
from simulator.cluster.model import Arrival, SlurmModel, run_to_end
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition
from tests.support.real_slurm import RealSlurm, why_not

RUSH, RUSHES = 15, 2
JOBS = RUSH * RUSHES
NODES = 4
CYCLE_S = 2.0
"""Backfill looks each second, and starting a job takes up to another."""
SPEC = ClusterSpec((NodeGroup("n", NODES, 1),), (Partition("batch"), Partition("inference", tier=1)))
PARTITIONS = (
    "PartitionName=batch Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 OverSubscribe=EXCLUSIVE",
    "PartitionName=inference Nodes=ALL MaxTime=60 PriorityTier=2 OverSubscribe=EXCLUSIVE",
)
OPTIONS = (
    "SchedulerType=sched/backfill",
    "SchedulerParameters=bf_interval=1,bf_resolution=1,batch_sched_delay=0,sched_interval=2,"
    "bf_job_part_count_reserve=1",
    "PriorityType=priority/basic",
)
REST_S = 15.0
TRIES = 2000
CYCLES = 40
LONGEST_CYCLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of each job, in order of submission, seconds from the beginning."""

    submitted: tuple[float, ...]
    started: tuple[float, ...]
    ended: tuple[float, ...]

    @property
    def waits(self) -> tuple[float, ...]:
        return tuple(start - submit for start, submit in zip(self.started, self.submitted, strict=True))


def draw(seed: int) -> tuple[Arrival, ...]:
    """A rush of jobs of 1 to 4 nodes that sleep for seconds and claim minutes, as users do."""
    rng = random.Random(seed)
    arrivals = []
    for number in range(RUSH):
        partition = "inference" if rng.random() < 0.3 else "batch"
        nodes = rng.choice((1, 1, 1, 2, 2, 3, 4))
        request = JobRequest(str(number), partition, nodes, 1, 60.0 * rng.choice((1, 1, 2, 3)), rng.uniform(4.0, 16.0))
        arrivals.append(Arrival(0.4 * number, request))
    return tuple(arrivals)


def simulate(arrivals: Sequence[Arrival]) -> Outcome:
    model = SlurmModel(SPEC, background=arrivals)
    records = {int(event.record.request.name): event.record for event in run_to_end(model) if isinstance(event, Ended)}
    ordered = [records[number] for number in range(len(arrivals))]
    starts = tuple(record.started_at for record in ordered if record.started_at is not None)
    return Outcome(
        tuple(record.submitted_at for record in ordered), starts, tuple(record.ended_at for record in ordered)
    )


def sturdy_load(rushes: int) -> tuple[Arrival, ...]:
    """The first drawn rushes that are sturdy, each when the one before is over: found with the model alone, before any
    real job runs."""
    load: list[Arrival] = []
    begins_at = 0.0
    for arrivals in filter(is_sturdy, map(draw, range(TRIES))):
        for each in arrivals:
            load.append(Arrival(begins_at + each.at, replace(each.request, name=str(len(load)))))
        if len(load) == rushes * RUSH:
            return tuple(load)
        begins_at += max(simulate(arrivals).ended) + REST_S
    raise RuntimeError(f"fewer than {rushes} of {TRIES} loads keep their order under a scheduler with a cycle")


def is_sturdy(arrivals: Sequence[Arrival]) -> bool:
    """Whether jobs overtake others, and the model keeps the order of starts when its scheduler looks only now and
    then."""
    plain = simulate(arrivals)
    if out_of_order(plain.started, plain.submitted) < RUSH:
        return False
    others = (starts_in_cycles(arrivals, number) for number in range(CYCLES))
    return all(out_of_order(started, plain.started) == 0 for started in others)


def starts_in_cycles(arrivals: Sequence[Arrival], seed: int) -> list[float]:
    """The starts where jobs come and end only when the scheduler looks, each one to three seconds, and where each
    lasts up to half a second longer. A job that is looked at a cycle after another of the same limit would end after
    it, hence the limits that differ by seconds."""
    rng = random.Random(seed)
    model = SlurmModel(SPEC)
    cycle_s, now = rng.uniform(1.0, LONGEST_CYCLE_S), -rng.random()
    waiting, started, ends = list(arrivals), dict[int, float](), dict[int, float]()
    while len(started) < len(arrivals):
        now += cycle_s
        while waiting and waiting[0].at <= now:
            request = waiting.pop(0).request
            limit_s = request.limit_s + rng.uniform(-LONGEST_CYCLE_S, LONGEST_CYCLE_S)
            model.submit(replace(request, run_s=None, limit_s=limit_s), now)
        for job_id in [job_id for job_id, end in ends.items() if end <= now]:
            del ends[job_id]
            model.finish(job_id, now)
        for event in model.advance(now):
            if isinstance(event, Started):
                started[event.job_id] = event.at
                ends[event.job_id] = event.at + (arrivals[event.job_id - 1].request.run_s or 0.0) + rng.uniform(0, 0.5)
    return [started[number + 1] for number in range(len(arrivals))]


def out_of_order(started: Sequence[float], expected: Sequence[float], margin_s: float = 0.0) -> int:
    """Pairs of jobs of which one is expected to start before the other, and starts more than ``margin_s`` after it."""
    times = zip(started, expected, strict=True)
    return sum(
        (theirs - other_theirs) * (mine - other_mine) < 0 and abs(mine - other_mine) > margin_s
        for (mine, theirs), (other_mine, other_theirs) in combinations(times, 2)
    )


def run_for_real(slurm: RealSlurm, arrivals: Sequence[Arrival], tell: Tell) -> Outcome:
    """Submit each job when its time has come; jobs write down themselves when they start and end."""
    began_at = time.time()
    submitted = []
    for number, arrival in enumerate(arrivals):
        time.sleep(max(0.0, began_at + arrival.at - time.time()))
        request = arrival.request
        note = f"{slurm.folder}/job-{number}"
        script = f"date +%s.%N > {note}; sleep {request.run_s:.2f}; date +%s.%N >> {note}"
        submitted.append(time.time() - began_at)
        slurm.command(
            "sbatch", "--parsable", f"--partition={request.partition}", f"--nodes={request.nodes}", "--exclusive",
            f"--time={request.limit_s / 60:.0f}", f"--output={note}.out", f"--chdir={slurm.folder}", f"--wrap={script}",
        )  # fmt: skip
        tell(f"slurm_real: {number + 1} of {len(arrivals)} jobs submitted")
    slurm.wait_until_empty(within_s=300.0)
    notes = [(slurm.folder / f"job-{number}").read_text(encoding="utf-8").split() for number in range(len(arrivals))]
    started, ended = zip(*((float(start) - began_at, float(end) - began_at) for start, end in notes), strict=True)
    return Outcome(tuple(submitted), started, ended)


def as_it_ran(arrivals: Sequence[Arrival], real: Outcome, delay_s: float = 0.0) -> list[Arrival]:
    """The same jobs with the real submissions and run times, as a log would tell them; ``delay_s`` is added to each
    run."""
    return [
        Arrival(submitted, replace(each.request, run_s=ended - started + delay_s))
        for each, submitted, started, ended in zip(arrivals, real.submitted, real.started, real.ended, strict=True)
    ]


def start_delay_s(real: Outcome, simulated: Outcome) -> float:
    """The median real wait of the jobs that found room at once."""
    return median(wait for wait, expected in zip(real.waits, simulated.waits, strict=True) if expected == 0)


def run(tell: Tell) -> Report:
    if (reason := why_not()) is not None:
        return Report("slurm_real", skipped=reason)
    arrivals = sturdy_load(RUSHES)
    with RealSlurm(NODES, PARTITIONS, OPTIONS) as slurm:
        version = slurm.command("sinfo", "--version").strip()
        real = run_for_real(slurm, arrivals, tell)
    simulated = simulate(as_it_ran(arrivals, real))
    delay_s = start_delay_s(real, simulated)
    delayed = simulate(as_it_ran(arrivals, real, delay_s))
    waits = {
        "model": simulated.waits,
        f"model with {delay_s:.2f} s of delay": tuple(wait + delay_s for wait in delayed.waits),
        "null": (median(real.waits[: JOBS // 2]),) * JOBS,
    }
    starts = (simulated.started, delayed.started, real.submitted)
    return Report("slurm_real", (_summary(version, real, waits, starts), _jobs(arrivals, real, tuple(waits.values()))))


def _summary(
    version: str, real: Outcome, waits: Mapping[str, Sequence[float]], starts: Sequence[Sequence[float]]
) -> Table:
    errors = [[abs(mine - true) for mine, true in zip(each, real.waits, strict=True)] for each in waits.values()]
    nulls = errors[-1]
    pairs = JOBS * (JOBS - 1) // 2
    rows: tuple[tuple[Cell, ...], ...] = (
        (f"pairs of {pairs} started in the other order", *(out_of_order(real.started, each) for each in starts)),
        (f"those more than {CYCLE_S:g} s apart", *(out_of_order(real.started, each, CYCLE_S) for each in starts)),
        ("median error of a wait (s)", *(round(median(each), 2) for each in errors)),
        ("mean error of a wait (s)", *(round(sum(each) / JOBS, 2) for each in errors)),
        ("largest error of a wait (s)", *(round(max(each), 2) for each in errors)),
        ("skill of the mean", *(round(skill(sum(each), sum(nulls)), 3) for each in errors)),
    )
    return Table(
        "slurm_real", f"The model against {version}", ("figure", *waits), rows, n=JOBS, free=0,
        remarks=(
            f"Real waits: median {median(real.waits):.1f} s, largest {max(real.waits):.1f} s. The delay is the one "
            "free number of its column: what ending, scheduling and starting take. A chain of jobs adds it up.",
            "The model reserves busy nodes first, as the textbook's counting does. A Slurm that reserves a node that "
            "is free already keeps it idle where the model fills it: the likely cause of what differs, read off the "
            "schedule and not from Slurm's log.",
        ),
    )  # fmt: skip


def _jobs(arrivals: Sequence[Arrival], real: Outcome, waits: Sequence[Sequence[float]]) -> Table:
    plain, delayed, _ = waits
    rows = tuple(
        (job, arrivals[job].request.partition, arrivals[job].request.nodes, arrivals[job].request.limit_s,
         round(real.submitted[job], 1), round(real.waits[job], 1), round(plain[job], 1), round(delayed[job], 1))
        for job in sorted(range(JOBS), key=lambda job: real.started[job])
    )  # fmt: skip
    columns = (
        "job",
        "partition",
        "nodes",
        "limit (s)",
        "submitted (s)",
        "real wait (s)",
        "model (s)",
        "with delay (s)",
    )
    return Table("slurm_real_jobs", "Each job, in the order of real starts", columns, rows, n=JOBS, free=0)
