"""A cluster around a run is the same for every policy; what replicas do to batch jobs is told job by job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.model.errors import ConfigErrors, TraceError
from broker.model.spec import JsonValue, ModelSpec, PoolSpec, SiteSpec
from simulator.cluster.host import ClusterHost
from simulator.cluster.jobs import JobRecord
from simulator.cluster.plan import Background, ClusterPlan, Failures, LoggedJobs, PlannedMaintenance
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition
from simulator.cold_start import ColdStart, Duration
from simulator.demand import demand_of
from simulator.run import Prepared, prepare, run
from simulator.simulation import SimulationSettings
from tests.support.simulated import ELASTIC, SLOW_ENGINE, small_request

SETTINGS = SimulationSettings(tail_s=30.0, warm_up_s=20.0)
REQUESTS = [small_request(0.5 * n, output_tokens=20) for n in range(240)]
OPTIONS: dict[str, JsonValue] = {"partition": "gpu", "time_limit_s": 300.0}
SITE = SiteSpec("hpc", (PoolSpec("hpc", "slurm", 4, options=OPTIONS),))
QUICK = ColdStart(
    1.0, Duration(2.0, 0.5), Duration(1.0), Duration(1.0), Duration(0.0), Duration(0.0), Duration(1.0), Duration(0.0)
)
SWF = "; UnixStartTime: 0\n" + "".join(
    f"{n} {20 * n} 0 {30 + 7 * (n % 5)} {1 + n % 3} -1 -1 {1 + n % 3} 90 -1 1 1 1 -1 1 -1 -1 -1\n" for n in range(20)
)


@pytest.fixture
def plan(tmp_path: Path) -> ClusterPlan:
    """Four GPUs that batch users keep busy; a node fails now and then."""
    (tmp_path / "log.swf").write_text(SWF)
    return ClusterPlan(
        ClusterSpec((NodeGroup("n", 4, 1),), (Partition("gpu"),)),
        background=(Background("users", LoggedJobs(tmp_path / "log.swf"), "gpu"),),
        maintenance=(PlannedMaintenance("late", 600.0, 60.0),),
        failures=Failures(3600.0, 30.0),
        cold_starts={"chat": QUICK},
        cache_gib=10.0,
        lead_s=100.0,
    )


def prepared(plan: ClusterPlan, model: ModelSpec = ELASTIC, seed: int = 1) -> Prepared:
    return prepare(
        SITE, (model,), demand_of("chat", REQUESTS), seed=seed, settings=SETTINGS,
        profile_of=lambda launch: SLOW_ENGINE, cluster=plan,
    )  # fmt: skip


def batch_of(done: Prepared) -> list[JobRecord]:
    host: ClusterHost
    (host,) = done.simulation.clusters.values()
    return host.batch


def test_replicas_wait_in_the_queue_and_delay_the_batch(plan: ClusterPlan) -> None:
    report = prepared(replace(plan, failures=None), replace(ELASTIC, minimum=3)).carry_out()
    queue = report.summary.queues["hpc"]
    assert queue.submitted >= queue.started >= 1
    assert sum(queue.states.values()) == queue.submitted
    batch = report.summary.batch
    assert batch is not None
    assert batch.refused == 0
    assert batch.jobs >= batch.harm[-1].jobs + batch.harm[-1].lost > 10
    assert (batch.harm[-1].delay_mean_s or 0.0) > abs(batch.null[-1].delay_mean_s or 0.0)
    assert batch.wait.mean_s is not None
    assert batch.wait_without.mean_s is not None
    assert batch.wait.mean_s > batch.wait_without.mean_s


def test_policies_meet_the_same_jobs_failures_and_load_times(plan: ClusterPlan) -> None:
    """Common random numbers: what one policy does moves no draw of the cluster."""
    few, many = (prepared(plan, replace(ELASTIC, minimum=n)) for n in (1, 3))
    for each in (few, many):
        each.carry_out()
    submitted = [{record.request.name: record.submitted_at for record in batch_of(each)} for each in (few, many)]
    common = submitted[0].keys() & submitted[1].keys()
    assert len(common) > 5
    assert all(submitted[0][name] == submitted[1][name] for name in common)
    starts = [plan.starts(seed=1).begin("chat-0-1", "chat", [node], 0.0) for node in (0, 3)]
    assert starts[0] == starts[1]


def test_another_seed_is_another_draw_of_everything(plan: ClusterPlan) -> None:
    one, two = (plan.starts(seed).begin("chat-0-1", "chat", [0], 0.0) for seed in (1, 2))
    assert one != two
    times = {"begins_at": 0.0, "start_at": 0.0, "until_at": 1e5}
    first, again, other = (plan.model(seed, **times) for seed in (1, 1, 2))
    ends = [list(model.advance(1e5)) for model in (first, again, other)]
    assert ends[0] == ends[1] != ends[2]


def test_two_runs_are_alike(plan: ClusterPlan) -> None:
    one, two = (prepared(plan).carry_out().summary for _ in range(2))
    assert one == two


def test_a_log_that_ends_before_the_background_begins_is_refused(plan: ClusterPlan) -> None:
    (load,) = plan.background
    assert isinstance(load.source, LoggedJobs)
    late = replace(plan, background=(replace(load, source=replace(load.source, begin_s=1000.0)),))
    words = r"log\.swf: its last job is submitted in second 380, before the background begins in second 1000"
    with pytest.raises(TraceError, match=words):
        prepared(late)


def test_what_could_never_run_is_refused_by_pool_and_model(plan: ClusterPlan) -> None:
    lost = replace(SITE, pools=(replace(SITE.pools[0], options=OPTIONS | {"partition": "big"}),))
    with pytest.raises(ConfigErrors, match=r"pools\.hpc\.partition: the cluster has no partition 'big'"):
        run(lost, (ELASTIC,), REQUESTS, cluster=plan)
    with pytest.raises(ConfigErrors, match=r"models\.chat\.gpus: pool hpc: chat needs 5 nodes"):
        run(SITE, (replace(ELASTIC, gpus=5),), REQUESTS, cluster=plan)
