"""A pool of Slurm jobs beyond the common contract: deaths between two calls, lost answers, and what is not ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from actuators.slurm.client import SubmitUnclear
from actuators.slurm.job import JobSpec, JobState
from actuators.slurm.polling import SHORTEST_S, STATES_REST_S, WHOLE_EVERY_S
from broker.model.agents import AgentOrder
from broker.model.errors import ActionRejected, TransientError
from broker.model.observation import Outcome
from broker.model.plan import Launch
from broker.model.replica import ObservedReplica, ReplicaPhase, StopMode
from tests.support.actuator_worlds import launch_of, seen, stop_of, until_listening, until_phase
from tests.support.slurm_pool_world import PLACE, POLL_S, SlurmJobsWorld

CHAT = "chat-0-g1"
CANCELLED = "CANCELLED: somebody cancelled the job"


@pytest.fixture
def world() -> SlurmJobsWorld:
    return SlurmJobsWorld()


async def running(world: SlurmJobsWorld) -> Launch:
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    await until_listening(world, launch.replica_id)
    return launch


async def shown(world: SlurmJobsWorld) -> ObservedReplica:
    """Once the next listing is due."""
    world.clock.at += POLL_S
    replica = await seen(world, CHAT)
    assert replica is not None
    return replica


async def running_and_just_listed(world: SlurmJobsWorld) -> None:
    """By a Slurm that tells of our jobs alone."""
    world.slurm.tells_states = True
    await running(world)
    world.clock.at += WHOLE_EVERY_S
    await world.actuator.observe()


class Died(BaseException):
    """The broker is killed here."""


def dies_at(point: str) -> Callable[[str], None]:
    def checkpoint(name: str) -> None:
        if name == point:
            raise Died

    return checkpoint


async def test_a_replica_is_told_by_its_job_and_once_it_runs_by_its_node(world: SlurmJobsWorld) -> None:
    await world.actuator.start(launch_of(world.cluster))
    (job,) = world.slurm.everything()
    waiting = await seen(world, CHAT)
    assert waiting is not None
    assert (waiting.phase, waiting.runs_as) == (ReplicaPhase.PENDING, f"job {job.job_id}")
    await until_listening(world, CHAT)
    assert (await shown(world)).runs_as == f"job {job.job_id} on {world.slurm.everything()[0].nodes[0]}"


async def test_where_a_replica_started_is_told_with_its_url(world: SlurmJobsWorld) -> None:
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    loading = await until_phase(world, CHAT, ReplicaPhase.STARTING)
    assert (loading.url, loading.start_place) == (None, None)
    await until_listening(world, CHAT)
    serving = await shown(world)
    assert (serving.url, serving.start_place) == ("http://n1/chat-0-g1", PLACE)


@pytest.mark.parametrize("point", ["before_submit", "after_submit"])
async def test_a_broker_that_dies_around_a_submission_has_one_job_by_the_next(
    world: SlurmJobsWorld, point: str
) -> None:
    launch = launch_of(world.cluster)
    with pytest.raises(Died):
        await world.make(dies_at(point)).start(launch)
    world.renew()
    assert (await world.actuator.start(launch)).outcome is Outcome.ACCEPTED
    await until_listening(world, CHAT)
    assert world.runs(CHAT) == 1


async def test_a_submission_whose_answer_was_lost_is_looked_up_and_not_repeated(world: SlurmJobsWorld) -> None:
    """Pitfall 4."""
    launch = launch_of(world.cluster)
    world.slurm.lose_next_answer()
    with pytest.raises(SubmitUnclear):
        await world.actuator.start(launch)
    assert (await world.actuator.start(launch)).outcome is Outcome.ACCEPTED
    assert world.runs(CHAT) == 1


async def test_nothing_is_submitted_while_nobody_can_say_what_is_there(world: SlurmJobsWorld) -> None:
    """Pitfall 3."""
    world.slurm.fail_next("jobs", TransientError("slurmctld does not answer"))
    with pytest.raises(TransientError):
        await world.actuator.start(launch_of(world.cluster))
    assert world.slurm.submitted == []


async def test_slurm_is_listed_once_a_poll_however_often_the_pool_is_observed(world: SlurmJobsWorld) -> None:
    await running(world)
    world.clock.at += POLL_S
    await world.actuator.observe()
    world.slurm.fail_next("jobs", TransientError("asked again"))
    for _ in range(20):
        assert (await world.actuator.observe()).known


async def test_where_slurm_tells_of_our_jobs_alone_the_whole_is_listed_only_for_news(world: SlurmJobsWorld) -> None:
    """slurmrestd lists the jobs of all: 248 MB of 30,000, at each poll."""
    await running_and_just_listed(world)
    listings = world.slurm.listings
    world.slurm.run_foreign(JobSpec("other", "my own", "#!/bin/sh\n", "gpu", 600.0, "/dev/null", "/"), "somebody")
    assert (await shown(world)).phase is ReplicaPhase.STARTING
    assert world.slurm.listings == listings
    world.slurm.finish(world.job_id(CHAT))
    assert (await shown(world)).phase is ReplicaPhase.FAILED
    assert world.slurm.listings == listings + 1
    await world.actuator.start(launch_of(world.cluster, ordinal=1, generation=2))
    world.clock.at += SHORTEST_S
    await world.actuator.observe()
    assert world.slurm.listings == listings + 3, "before and after a submission"


async def test_what_no_state_shows_is_seen_by_the_listing_that_is_due_in_any_case(world: SlurmJobsWorld) -> None:
    await running_and_just_listed(world)
    world.slurm.move_end(world.job_id(CHAT), ends_at := world.clock.at + 60.0)
    seen_after = [(await shown(world)).not_after == ends_at for _ in range(int(WHOLE_EVERY_S / POLL_S))]
    assert seen_after == [False, False, True]


async def test_states_that_are_not_told_are_left_alone_for_a_while_and_all_is_listed(world: SlurmJobsWorld) -> None:
    """A cut or hanging address once made the pool unknown two thirds of the time, though the listing worked."""
    await running_and_just_listed(world)
    world.slurm.tells_states = False
    listings = world.slurm.listings
    for polls in range(1, 4):
        assert (await shown(world)).phase is ReplicaPhase.STARTING
        assert world.slurm.listings == listings + polls
    world.slurm.tells_states, looks = True, world.slurm.looks
    await shown(world)
    assert world.slurm.looks == looks
    world.clock.at += STATES_REST_S
    await shown(world)
    await shown(world)
    assert world.slurm.looks == looks + 1


async def test_a_submission_whose_answer_was_lost_is_listed_at_once(world: SlurmJobsWorld) -> None:
    await running_and_just_listed(world)
    world.slurm.lose_next_answer()
    launch = launch_of(world.cluster, ordinal=1, generation=2)
    with pytest.raises(SubmitUnclear):
        await world.actuator.start(launch)
    world.clock.at += SHORTEST_S
    assert await seen(world, launch.replica_id) is not None


async def test_a_clock_that_is_set_back_hides_no_running_job_behind_its_submission(world: SlurmJobsWorld) -> None:
    launch = await running(world)
    world.clock.at -= 3600.0
    world.slurm.listings = 0
    await world.actuator.start(launch_of(world.cluster, ordinal=1, generation=2))  # which lists
    assert world.slurm.listings == 1
    replica = await seen(world, launch.replica_id)
    assert replica is not None
    assert replica.phase is ReplicaPhase.STARTING


async def test_a_slurm_that_fails_is_asked_less_and_less_often(world: SlurmJobsWorld) -> None:
    asked = []
    for second in range(120):
        world.clock.at += 1.0
        world.slurm.fail_next("jobs", TransientError(f"at {second}"))
        asked.append((await world.actuator.observe()).error)
    assert len(set(asked)) <= 6


async def test_a_job_that_was_requeued_is_cancelled_and_its_replica_has_failed(world: SlurmJobsWorld) -> None:
    """Pitfalls 10 and 11: it keeps its id and its name, and would be a second engine of one action."""
    await running(world)
    world.slurm.requeue(world.job_id(CHAT))
    replica = await shown(world)
    assert (replica.phase, "requeued" in replica.detail) == (ReplicaPhase.FAILED, True)
    assert world.slurm.cancelled == [world.job_id(CHAT)]


def submitted_again(world: SlurmJobsWorld) -> int:
    """The same job once more, by somebody's hand."""
    return world.slurm.run_foreign(world.slurm.submitted[0], "tide")


async def test_a_second_job_of_one_action_is_cancelled_and_the_first_goes_on(world: SlurmJobsWorld) -> None:
    await running(world)
    spare = submitted_again(world)
    assert (await shown(world)).url is not None
    await shown(world)
    assert world.slurm.cancelled == [spare]


async def test_a_second_job_of_an_action_that_is_over_is_cancelled_too(world: SlurmJobsWorld) -> None:
    """It would have served nobody until its wall time: its replica was told as ended, so nobody stopped it."""
    await running(world)
    world.slurm.finish(world.job_id(CHAT))
    assert (await shown(world)).phase is ReplicaPhase.FAILED
    spare = submitted_again(world)
    world.slurm.fail_next("cancel", TransientError("slurmctld does not answer"))
    assert (await shown(world)).phase is ReplicaPhase.FAILED
    assert world.slurm.cancelled == []
    await shown(world)
    assert world.slurm.cancelled == [spare]


async def test_a_broker_that_observes_cancels_nothing(world: SlurmJobsWorld) -> None:
    await running(world)
    submitted_again(world)
    world.slurm.requeue(world.job_id(CHAT))
    world.actuator = world.make(acts=False)
    await shown(world)
    assert world.slurm.cancelled == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState.CANCELLED, f"{CANCELLED}; its agent says stopped: the engine exited"),
        (JobState.PREEMPTED, "PREEMPTED: another job took its nodes; its agent says stopped: the engine exited"),
        (JobState.COMPLETED, "stopped: the engine exited"),
    ],
)
async def test_who_ended_a_job_is_told_by_slurm_and_how_by_its_agent(
    world: SlurmJobsWorld, state: JobState, words: str
) -> None:
    """Somebody's scancel was told as if we had asked for the exit, since the agent hears the same SIGTERM."""
    launch = await running(world)
    world.agents.tell(launch.action_id, AgentOrder.STOP)
    world.slurm.finish(world.job_id(CHAT), state=state)
    replica = await shown(world)
    assert replica.detail == words
    assert (replica.phase is ReplicaPhase.GONE) == (state is JobState.COMPLETED)


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.COMPLETED])
async def test_a_job_that_the_broker_ended_is_not_told_as_somebody_elses_doing(
    world: SlurmJobsWorld, state: JobState
) -> None:
    """It cancels a job that waits itself, and an agent that was not heard says nothing of its order."""
    launch = await running(world)
    world.agents.silent = True
    await world.actuator.stop(stop_of(launch, StopMode.KILL))
    world.slurm.finish(world.job_id(CHAT), state=state)
    replica = await shown(world)
    assert (replica.phase, replica.detail) == (ReplicaPhase.GONE, f"{state.value}: it was told to exit")


@pytest.mark.parametrize(
    ("phase", "told"),
    [
        pytest.param(ReplicaPhase.READY, [("warning", CANCELLED)], id="it served when the broker went"),
        pytest.param(ReplicaPhase.STOPPING, [("info", "CANCELLED: it was told to exit")], id="it was told to exit"),
        pytest.param(ReplicaPhase.GONE, [], id="its end was told before"),
        pytest.param(None, [], id="the log knows nothing of it"),
    ],
)
async def test_of_jobs_that_ended_before_a_broker_began_only_that_is_told_which_its_log_does_not_know(
    world: SlurmJobsWorld, phase: ReplicaPhase | None, told: list[tuple[str, str]]
) -> None:
    """Each restart told of each old job anew, as of one that somebody had cancelled."""
    await running(world)
    world.agents.silent = True
    world.slurm.finish(world.job_id(CHAT), state=JobState.CANCELLED)
    world.recorded = {} if phase is None else {CHAT: phase}
    world.renew()
    with capture_logs() as lines:
        await shown(world)
        await shown(world)
    assert [(line["log_level"], line["detail"]) for line in lines if line["event"] == "job_ended"] == told


async def test_a_job_that_was_told_to_exit_by_the_broker_before_is_not_somebody_elses_doing(
    world: SlurmJobsWorld,
) -> None:
    await running(world)
    world.agents.silent = True
    world.recorded = {CHAT: ReplicaPhase.STOPPING}
    world.renew()
    assert (await shown(world)).phase is ReplicaPhase.STOPPING
    world.slurm.finish(world.job_id(CHAT), state=JobState.CANCELLED)
    replica = await shown(world)
    assert (replica.phase, replica.detail) == (ReplicaPhase.GONE, "CANCELLED: it was told to exit")


async def test_a_life_that_slurm_shortens_is_told_as_it_is(world: SlurmJobsWorld) -> None:
    """Pitfalls 9 and 10. A preemption with a grace left no word of itself: its replica was drained for expiry."""
    await running(world)
    world.slurm.move_end(world.job_id(CHAT), world.clock.at + 60.0)
    with capture_logs() as lines:
        assert (await shown(world)).not_after == world.clock.at - POLL_S + 60.0
        await shown(world)
    (line,) = [line for line in lines if line["event"] == "job_shortened"]
    assert (line["replica_id"], line["left_s"], "preempted" in line["cause"]) == (CHAT, 55, True)


@pytest.mark.parametrize(
    "comment",
    [
        pytest.param(
            "tidegate: cluster=other pool=pool model=chat ordinal=0 generation=1 gpus=1", id="another cluster"
        ),
        pytest.param("tidegate: cluster=test pool=other model=chat ordinal=0 generation=1 gpus=1", id="another pool"),
        pytest.param("my own work", id="a job of our user's own"),
    ],
)
async def test_what_is_not_ours_is_neither_shown_nor_touched(world: SlurmJobsWorld, comment: str) -> None:
    launch = launch_of(world.cluster)
    foreign = JobSpec(launch.action_id, comment, "#!/bin/sh\n", "gpu", 600.0, "/dev/null", "/")
    world.slurm.run_foreign(foreign, "tide")
    world.clock.at += POLL_S
    assert (await world.actuator.observe()).replicas == ()
    for mode in StopMode:
        await world.actuator.stop(stop_of(launch, mode))
    assert (world.slurm.cancelled, world.slurm.signals) == ([], [])


async def test_jobs_of_another_log_are_neither_counted_nor_touched_and_nothing_is_started_beside_them(
    world: SlurmJobsWorld,
) -> None:
    world.log_ids = ("aa",)
    world.renew()
    launch = await running(world)
    world.log_ids = ("bb",)
    world.renew()
    listing = await world.actuator.observe()
    assert (listing.known, listing.replicas) == (False, ())
    assert listing.error.startswith("pools.pool of site.yaml: 1 living jobs (such as 1) are of another broker")
    assert "`tidegate adopt`" in listing.error
    with pytest.raises(ActionRejected, match="mend cluster: give this site another name"):
        await world.actuator.start(launch)
    for mode in StopMode:
        await world.actuator.stop(stop_of(launch, mode))
    assert (len(world.slurm.submitted), world.slurm.cancelled, world.slurm.signals) == (1, [], [])

    world.log_ids = ("bb", "aa")
    world.renew()
    assert (await shown(world)).phase is ReplicaPhase.STARTING


@pytest.mark.parametrize("end", [True, False], ids=["of another log, and over", "of an older release"])
async def test_what_has_ended_and_what_says_no_log_is_in_nobodys_way(world: SlurmJobsWorld, end: bool) -> None:
    world.log_ids = ("aa",) if end else ()
    world.renew()
    await running(world)
    if end:
        world.crash(CHAT)
    world.log_ids = ("bb",)
    world.renew()
    listing = await world.actuator.observe()
    assert (listing.known, [replica.replica_id for replica in listing.replicas]) == (True, [] if end else [CHAT])


async def test_a_job_whose_agent_is_silent_is_told_to_exit_by_a_signal_once() -> None:
    world = SlurmJobsWorld(silent=True)
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    await until_phase(world, CHAT, ReplicaPhase.STARTING)
    for _ in range(3):
        await world.actuator.stop(stop_of(launch))
    assert world.slurm.signals == [(world.job_id(CHAT), "TERM")]
    assert (await until_phase(world, CHAT, ReplicaPhase.GONE)).exit_code == 0


async def test_an_end_is_remembered_when_slurm_has_forgotten_the_job(world: SlurmJobsWorld) -> None:
    """Pitfall 8."""
    launch = await running(world)
    world.crash(CHAT)
    await until_phase(world, CHAT, ReplicaPhase.FAILED)
    world.clock.at += 600.0
    assert (await shown(world)).phase is ReplicaPhase.FAILED
    assert (await world.actuator.start(launch)).outcome is Outcome.ACCEPTED
    assert world.runs(CHAT) == 1


async def test_orders_for_another_pool_or_cluster_are_refused(world: SlurmJobsWorld) -> None:
    launch = launch_of("elsewhere")
    with pytest.raises(ActionRejected, match="belongs to pool pool of elsewhere"):
        await world.actuator.start(launch)
    with pytest.raises(ActionRejected, match="belongs to pool pool of elsewhere"):
        await world.actuator.stop(stop_of(launch))


OUTAGE_S = 1000.0
"""Longer than Slurm's controller remembers a job that ended."""


async def ended_unseen(world: SlurmJobsWorld) -> Launch:
    """A job ends while no broker runs, and another begins after all of it is forgotten."""
    launch = await running(world)
    world.slurm.finish(world.job_id(CHAT), state=JobState.TIMEOUT, exit_code=None)
    world.agents.silent = True
    world.clock.at += OUTAGE_S
    world.renew()
    return launch


async def test_what_ended_while_no_broker_looked_is_told_by_accounting() -> None:
    world = SlurmJobsWorld(accounting=True)
    await ended_unseen(world)
    replica = await shown(world)
    assert (replica.phase, "TIMEOUT" in replica.detail) == (ReplicaPhase.FAILED, True)


async def test_an_action_that_has_had_its_job_has_no_other_however_late_it_is_asked_for_again() -> None:
    world = SlurmJobsWorld(accounting=True)
    launch = await ended_unseen(world)
    assert (await world.actuator.start(launch)).outcome is Outcome.ACCEPTED
    assert world.runs(CHAT) == 1


async def test_accounting_is_asked_once_and_does_without_an_answer() -> None:
    world = SlurmJobsWorld(accounting=True)
    await ended_unseen(world)
    world.slurm.fail_next("ended", TransientError("slurmdbd does not answer"))
    for _ in range(2):
        world.clock.at += POLL_S
        assert (await world.actuator.observe()).known
    assert await seen(world, CHAT) is None
