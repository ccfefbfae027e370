"""What holds in every simulation: nothing is lost, nothing planned cuts a request, the same input is the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import given, settings

from broker.control.draft import endpoint_record
from broker.model import wire
from broker.model.plan import Launch, Stop
from broker.model.ports import StepRecord
from broker.model.replica import EndpointRecord, Replica, ReplicaPhase
from simulator.report.summary import RunSummary
from tests.support.simulated import ELASTIC, SLOW_ENGINE, SmallRun, small_request, workloads
from traces.schema import Requests, TraceRequest, as_requests

BURST_THEN_CALM = [small_request(0.05 * n, output_tokens=40) for n in range(80)] + [
    small_request(60.0 + n) for n in range(9)
]


def launches(run: SmallRun) -> int:
    return sum(isinstance(effect, Launch) for record in run.store.steps for effect in record.effects)


def stops(run: SmallRun) -> list[Stop]:
    return [effect for record in run.store.steps for effect in record.effects if isinstance(effect, Stop)]


def stopping(steps: Sequence[StepRecord]) -> list[Replica]:
    """Records at the step in which they were told to exit."""
    return [
        entity
        for record in steps
        for entity in record.changes.values()
        if isinstance(entity, Replica) and entity.phase is ReplicaPhase.STOPPING and entity.phase_since == record.now
    ]


def counted(summary: RunSummary) -> int:
    requests = summary.requests
    return requests.finished + requests.failed + requests.cut + requests.rejected + requests.unfinished


@settings(max_examples=40)
@given(workloads())
def test_requests_and_tokens_are_conserved_and_no_planned_drain_cuts_one(requests: list[TraceRequest]) -> None:
    run = SmallRun()
    summary = run.run(requests)
    assert counted(summary) == summary.requests.sent == len(requests)
    assert summary.requests.finished == len(requests)
    assert summary.output_tokens == sum(request.output_tokens for request in requests)
    assert summary.prompt_tokens == sum(request.prompt_tokens for request in requests)
    assert summary.time_to_first_token.count == len(requests)
    assert summary.inter_token.count == sum(request.output_tokens - 1 for request in requests)
    assert all(replica.in_flight_at_stop == 0 for replica in stopping(run.store.steps))


def test_a_burst_and_a_lull_scale_out_and_in_without_a_cut_request() -> None:
    run = SmallRun()
    summary = run.run(BURST_THEN_CALM)
    assert launches(run) >= 3
    assert len(stops(run)) >= 2
    assert summary.peak_ready >= 3
    assert summary.requests.finished == len(BURST_THEN_CALM)


def test_the_same_requests_are_the_same_run_to_the_last_byte() -> None:
    first, second = SmallRun(), SmallRun()
    assert wire.dumps(first.run(BURST_THEN_CALM)) == wire.dumps(second.run(BURST_THEN_CALM))
    assert [wire.dumps(record) for record in first.store.steps] == [wire.dumps(record) for record in second.store.steps]


def test_time_to_first_token_counts_from_the_arrival_also_while_no_replica_is_ready() -> None:
    """Without a warm-up the first request is held while the first replica loads."""
    summary = SmallRun(warm_up_s=0.0).run([small_request(0.0)])
    assert summary.time_to_first_token.max_s is not None
    assert summary.time_to_first_token.max_s > SLOW_ENGINE.load_time_s


def crash_one_at(run: SmallRun, at_s: float, crashed: list[str]) -> Callable[[float, int], None]:
    """A progress listener that lets one ready replica die ``at_s`` into the trace and notes its name."""

    def watch(second: float, count: int) -> None:
        if second >= at_s and not crashed:
            replicas = run.simulation.state.replicas_of("chat").values()
            crashed.append(next(r.replica_id for r in replicas if r.phase is ReplicaPhase.READY))
            run.simulation.crash(crashed[0])

    return watch


def test_a_crash_cuts_the_streams_that_had_begun_and_the_replica_is_replaced() -> None:
    run = SmallRun()
    crashed: list[str] = []
    requests = [small_request(0.1 * n, output_tokens=60) for n in range(40)]
    summary = run.run(requests, crash_one_at(run, 1.0, crashed))
    assert 1 <= summary.requests.cut <= SLOW_ENGINE.max_num_seqs
    assert summary.requests.finished == len(requests) - summary.requests.cut
    ended = [
        entity
        for record in run.store.steps
        for entity in record.changes.values()
        if isinstance(entity, Replica) and entity.replica_id == crashed[0] and entity.phase is ReplicaPhase.FAILED
    ]
    assert ended, "the broker saw that it failed"
    after = [r for r in run.store.steps if r.now >= ended[0].phase_since]
    assert any(isinstance(effect, Launch) for record in after for effect in record.effects)
    withdrawn = [e for record in run.store.steps for e in record.registry if e.endpoint_id == crashed[0]]
    assert withdrawn[-1].phase is ReplicaPhase.GONE


def test_a_request_refused_by_a_dead_replica_goes_to_another_at_once() -> None:
    """A dead endpoint has the fewest requests in flight: the least-loaded choice asked it over and over until the
    registry dropped it, and what could have been served at once waited for that."""
    two = SmallRun(model=replace(ELASTIC, minimum=2, maximum=2))
    summary = two.run([small_request(0.2 * n, output_tokens=2) for n in range(20)], crash_one_at(two, 1.0, []))
    assert summary.requests.finished + summary.requests.cut == 20
    assert summary.time_to_first_token.max_s is not None
    assert summary.time_to_first_token.max_s < 0.5


def test_a_pool_forgets_what_ended_an_hour_ago() -> None:
    """It listed every replica that ever was, twice a second: simulating weeks took quadratic time."""
    run = SmallRun()
    run.run([*BURST_THEN_CALM, small_request(4000.0)])
    assert len(stops(run)) >= 2
    assert [len(pool.replicas) for pool in run.simulation.pools.values()] == [1]


def test_a_registry_follows_from_the_state_at_every_step() -> None:
    run = SmallRun()
    run.run(BURST_THEN_CALM)
    published: dict[str, EndpointRecord] = {}
    for record in run.store.steps:
        for endpoint in record.registry:
            published[endpoint.endpoint_id] = endpoint
    final = {
        entity.replica_id: entity
        for record in run.store.steps
        for entity in record.changes.values()
        if isinstance(entity, Replica)
    }
    assert published
    assert published == {name: endpoint_record(final[name]) for name in published}


def test_what_can_never_fit_into_an_engine_is_rejected_and_counted() -> None:
    huge = SLOW_ENGINE.kv_capacity_tokens + 1
    summary = SmallRun().run([small_request(0.0), small_request(1.0, prompt_tokens=huge)])
    assert (summary.requests.finished, summary.requests.rejected) == (1, 1)


def test_the_blocks_in_which_a_trace_is_read_change_nothing() -> None:
    """Also where one ends at the very instant at which the next begins."""
    rows = [small_request(0.5 * (n // 3)) for n in range(60)]
    whole, parted = SmallRun(), SmallRun()
    parts = Requests(lambda: (next(as_requests(rows[n : n + 7]).blocks()) for n in range(0, 60, 7)))
    assert wire.dumps(whole.run(rows)) == wire.dumps(parted.run(parts))
    assert [wire.dumps(record) for record in whole.store.steps] == [wire.dumps(record) for record in parted.store.steps]
