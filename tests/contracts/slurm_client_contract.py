"""What every transport to Slurm must do. A test module inherits this class and gives it a ``world``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actuators.slurm.job import COMPLETING, JobState
from broker.model.errors import ActionRejected, TransientError
from tests.support.slurm_worlds import SlurmWorld, eventually, record_of, until


class SlurmClientContract:
    @pytest.fixture
    def world(self) -> SlurmWorld:
        raise NotImplementedError

    async def test_a_submitted_job_is_listed_as_it_was_asked_for(self, world: SlurmWorld) -> None:
        asked = world.job(time_limit_s=61.0, comment="tidegate:c1 a|b 'c' \"d\" äö ; $x")
        job_id = await world.client.submit(asked)
        record = await record_of(world, job_id)
        assert record is not None
        assert (record.name, record.comment, record.user, record.partition, record.restarts) == (
            asked.name,
            asked.comment,
            world.user,
            "batch",
            0,
        )
        assert record.state in (JobState.PENDING, JobState.RUNNING)
        assert record.time_limit_s == 120.0
        assert record.submitted_at is not None
        assert (record.exit_code, record.exit_signal) == (None, None)
        await world.client.cancel(job_id)

    async def test_a_running_job_tells_its_node_its_start_and_its_end(self, world: SlurmWorld) -> None:
        job_id = await world.client.submit(world.job(time_limit_s=600.0, output="/tmp/tide-%j-%x.out"))
        running = await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        assert running.nodes in (("n1",), ("n2",))
        assert running.started_at is not None
        assert running.end_at == running.started_at + 600.0
        assert running.output == f"/tmp/tide-{job_id}-{running.name}.out"
        assert not running.gone
        await world.client.cancel(job_id)

    async def test_a_job_that_waits_has_no_times_yet(self, world: SlurmWorld) -> None:
        blocking = [await world.client.submit(world.job(partition="short", cpus=4)) for _ in range(2)]
        waiting = await until(world, blocking[1], lambda record: record.state is JobState.PENDING)
        assert (waiting.nodes, waiting.exit_code) == ((), None)
        for job_id in blocking:
            await world.client.cancel(job_id)

    @pytest.mark.parametrize(("exit_code", "state"), [(0, JobState.COMPLETED), (3, JobState.FAILED)])
    async def test_a_job_that_ends_by_itself_tells_how(
        self, world: SlurmWorld, exit_code: int, state: JobState
    ) -> None:
        job_id = await world.client.submit(world.job())
        await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        world.finish(job_id, exit_code)
        ended = await until(world, job_id, lambda record: record.gone)
        assert (ended.state, ended.exit_code, ended.exit_signal) == (state, exit_code, None)

    async def test_cancelling_ends_a_running_job_and_again_is_success(self, world: SlurmWorld) -> None:
        job_id = await world.client.submit(world.job())
        await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        await world.client.cancel(job_id)
        await world.client.cancel(job_id)
        gone = await until(world, job_id, lambda record: record.gone)
        assert gone.state is JobState.CANCELLED
        assert COMPLETING not in gone.flags
        await world.client.cancel(job_id)

    async def test_cancelling_a_job_that_waits_takes_it_out_of_the_queue(self, world: SlurmWorld) -> None:
        first = await world.client.submit(world.job(partition="short", cpus=4))
        second = await world.client.submit(world.job(partition="short", cpus=4))
        await world.client.cancel(second)
        cancelled = await until(world, second, lambda record: record.gone)
        assert (cancelled.state, cancelled.nodes) == (JobState.CANCELLED, ())
        await world.client.cancel(first)

    async def test_a_job_that_changed_or_is_not_there_is_never_told_as_it_was(self, world: SlurmWorld) -> None:
        job_id = await world.client.submit(world.job())
        running = await until(world, job_id, lambda record: record.state is JobState.RUNNING and not record.flags)
        as_it_was = True if world.tells_states else None
        assert await world.client.unchanged([running]) is as_it_was
        assert await world.client.unchanged([]) is as_it_was
        assert not await world.client.unchanged([running, replace(running, job_id=999_999)])
        await world.client.cancel(job_id)
        gone = await until(world, job_id, lambda record: record.gone)
        assert not await world.client.unchanged([running])
        assert await world.client.unchanged([gone]) is as_it_was

    async def test_a_job_that_slurm_does_not_know_is_gone_for_cancel_and_signal(self, world: SlurmWorld) -> None:
        await world.client.cancel(999_999)
        await world.client.signal(999_999, "USR1")

    async def test_a_signal_reaches_the_batch_script_and_the_job_goes_on(self, world: SlurmWorld) -> None:
        job_id = await world.client.submit(world.job())
        await until(world, job_id, lambda record: record.state is JobState.RUNNING and world.hears(job_id))

        async def signalled() -> list[str] | None:
            await world.client.signal(job_id, "USR1")
            return world.signals(job_id) or None

        assert set(await eventually(world, signalled)) == {"USR1"}
        record = await record_of(world, job_id)
        assert record is not None
        assert record.state is JobState.RUNNING
        await world.client.cancel(job_id)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            pytest.param({"partition": "nowhere"}, ("nowhere", "sinfo"), id="a partition that is not there"),
            pytest.param(
                {"partition": "short", "time_limit_s": 7200.0},
                ("120 minutes", "MaxTime"),
                id="above the partition's limit",
            ),
            pytest.param({"gpus": 1, "gpu_type": "abacus"}, ("gpu:abacus:1", "sinfo"), id="GPUs that no node has"),
        ],
    )
    async def test_what_slurm_refuses_is_rejected_in_a_sentence_and_leaves_no_job(
        self, world: SlurmWorld, changes: dict[str, object], words: tuple[str, ...]
    ) -> None:
        asked = world.job(**changes)
        with pytest.raises(ActionRejected) as refused:
            await world.client.submit(asked)
        assert all(word in str(refused.value) for word in words), str(refused.value)
        assert asked.name not in str(refused.value), "what is refused again is told alike, so that it is told once"
        assert asked.name not in {record.name for record in await world.client.jobs()}

    async def test_a_requeued_job_keeps_its_id_and_counts_its_restarts(self, world: SlurmWorld) -> None:
        job_id = await world.client.submit(world.job())
        await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        world.requeue(job_id)
        again = await until(world, job_id, lambda record: record.restarts == 1)
        assert again.job_id == job_id
        await world.client.cancel(job_id)

    async def test_a_site_tells_its_partitions_its_user_and_its_clock(self, world: SlurmWorld) -> None:
        facts = await world.client.facts()
        partitions = {partition.name: partition for partition in facts.partitions}
        assert (partitions["batch"].up, partitions["batch"].nodes, partitions["batch"].max_time_s) == (True, 2, 86400.0)
        assert partitions["short"].max_time_s == 1800.0
        assert facts.user == world.user
        assert facts.release
        assert facts.clock_skew_s == pytest.approx(0.0, abs=2.0)

    async def test_a_slurm_that_is_away_is_unknown_not_empty(self, world: SlurmWorld) -> None:
        away = world.away()
        try:
            with pytest.raises(TransientError):
                await away.jobs()
            with pytest.raises(TransientError):
                await away.submit(world.job())
            with pytest.raises(TransientError):
                await away.cancel(1)
        finally:
            await away.close()

    async def test_a_closed_client_closes_again(self, world: SlurmWorld) -> None:
        await world.client.jobs()
        await world.client.close()
        await world.client.close()

    async def test_where_there_is_no_accounting_it_knows_of_nothing(self, world: SlurmWorld) -> None:
        assert await world.client.ended(3600.0) == ()
