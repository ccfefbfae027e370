"""The known ways in which clients of Slurm go wrong, by their numbers in the design notes, and what holds here."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from actuators.slurm import squeue
from actuators.slurm.client import SubmitUnclear
from actuators.slurm.commands import CommandClient
from actuators.slurm.fake import FakeSlurm
from actuators.slurm.job import JobSpec, JobState
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.tokens import Tokens
from actuators.slurm.runner import Finished, Unfinished
from actuators.slurm.texts import seconds
from broker.model.errors import ActionRejected, TransientError
from tests.support.fake_runner import FakeRunner
from tests.support.fake_slurmrestd import FakeSlurmrestd, FixedClock, jwt
from tests.support.shared_data import shared_path

JOB = JobSpec("tg-chat-0-g1", "tidegate:c1", "#!/bin/sh\nsleep 9\n", "gpu", 3600.0, "/logs/%j.out", "/tmp")

DETAILS = {
    "JobID": "17", "Name": "tg-chat-0-g1", "UserName": "tide", "Comment": "tidegate:c1", "Partition": "gpu",
    "State": "RUNNING", "Reason": "None", "NodeList": "n[1-2]", "RestartCnt": "0", "SubmitTime": "1795301508",
    "StartTime": "1795301510", "EndTime": "1795305110", "TimeLimit": "1-00:00:00", "exit_code": "0", "STDOUT": "/l/%j",
}  # fmt: skip


def listing(*jobs: dict[str, str]) -> Finished:
    """squeue's answer."""
    lines = (
        "".join(f"{(DETAILS | job)[name]:<{width}}{squeue.FIELD_END}" for name, width in squeue.WIDTHS.items())
        for job in jobs
    )
    return Finished(0, "".join(f"{line}{squeue.RECORD_END}\n" for line in lines), "")


def commands(**answers: Finished | Exception) -> tuple[CommandClient, FakeRunner]:
    runner = FakeRunner(dict(answers))
    return CommandClient(runner, FixedClock()), runner


def rest(folder: Path, **answers: str | Exception | httpx.Response) -> tuple[RestClient, FakeSlurmrestd]:
    server, clock = FakeSlurmrestd(folder, **answers), FixedClock()

    async def token() -> str:
        return jwt()

    parser = folder.name.partition("-")[2]
    return RestClient("http://login1:6820", Tokens(token, clock), clock, parser=parser, transport=server), server


def recordings(name: str) -> Path:
    return shared_path("slurm/recordings") / name


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Finished(1, "", "slurm_load_jobs error: Unable to contact slurm controller"), id="status 1"),
        pytest.param(Finished(1, "", ""), id="status 1 and no words"),
        pytest.param(Finished(0, "", "squeue: error: Unable to establish a connection"), id="status 0 and an error"),
        pytest.param(Finished(0, listing({}).output[:300], ""), id="cut in the middle"),
        pytest.param(Unfinished("squeue did not end within 30 s"), id="it never ended"),
    ],
)
async def test_pitfall_3_a_failed_squeue_is_unknown_and_not_an_empty_list(answer: Finished | Exception) -> None:
    client, _ = commands(squeue=answer)
    with pytest.raises(TransientError):
        await client.jobs()


async def test_pitfall_3_an_empty_squeue_is_known_to_be_empty() -> None:
    client, _ = commands(squeue=Finished(0, "", ""))
    assert await client.jobs() == ()


async def test_pitfall_4_an_id_is_success_whatever_else_sbatch_says() -> None:
    noise = "sbatch: lua: your account has 3 days left\nsbatch: error: job_submit plug-in is slow"
    client, _ = commands(sbatch=Finished(0, "welcome to login1\n4711;cluster7\n", noise))
    assert await client.submit(JOB) == 4711
    client, _ = commands(sbatch=Finished(1, "4712\n", noise))
    assert await client.submit(JOB) == 4712


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Unfinished("sbatch did not end within 30 s"), id="it never ended"),
        pytest.param(Finished(0, "", ""), id="no id and no error"),
        pytest.param(Finished(1, "", "sbatch: error: Socket timed out on send/recv operation"), id="not in time"),
    ],
)  # fmt: skip
async def test_pitfall_4_a_submission_that_may_have_happened_is_unclear(answer: Finished | Exception) -> None:
    client, _ = commands(sbatch=answer)
    with pytest.raises(SubmitUnclear, match="tg-chat-0-g1"):
        await client.submit(JOB)


async def test_pitfall_4_a_submission_whose_answer_is_lost_on_the_way_is_unclear() -> None:
    client, _ = rest(recordings("22.05.8-v0.0.38"), submit=httpx.ReadError("connection reset by peer"))
    with pytest.raises(SubmitUnclear, match="tg-chat-0-g1"):
        await client.submit(JOB)
    await client.close()


async def test_pitfall_4_a_submission_that_was_never_sent_is_clear() -> None:
    client, _ = rest(recordings("22.05.8-v0.0.38"), submit=httpx.ConnectError("connection refused"))
    with pytest.raises(TransientError) as refused:
        await client.submit(JOB)
    assert not isinstance(refused.value, SubmitUnclear)
    await client.close()


async def test_pitfall_5_errors_in_an_answer_of_status_200_are_errors() -> None:
    """slurmrestd of 24.11 answers so for a node that it does not know; the number of the error is 0."""
    folder = recordings("24.11.5-v0.0.42")
    client, _ = rest(folder, jobs="err-unknown-node", submit="err-unknown-node", delete="err-unknown-node")
    with pytest.raises(TransientError):
        await client.jobs()
    with pytest.raises(ActionRejected):
        await client.submit(JOB)
    with pytest.raises(TransientError):
        await client.cancel(7)
    await client.close()


async def test_pitfall_5_a_200_with_nothing_is_no_submission() -> None:
    client, _ = rest(recordings("24.11.5-v0.0.42"), submit="delete")
    with pytest.raises(SubmitUnclear):
        await client.submit(JOB)
    await client.close()


@pytest.mark.parametrize("release", ["22.05.8-v0.0.38", "24.11.5-v0.0.41", "24.11.5-v0.0.42", "26.05.5-v0.0.45"])
async def test_pitfall_6_nothing_new_since_a_time_is_not_no_jobs(release: str) -> None:
    client, server = rest(recordings(release), jobs="jobs-update-time-now")
    with pytest.raises(TransientError):
        await client.jobs()
    assert "update_time" not in str(server.asked[-1].url)
    await client.close()


async def test_pitfall_7_squeue_is_asked_for_named_fields_of_all_states_of_our_user_and_no_json() -> None:
    client, runner = commands(squeue=listing({}))
    (record,) = await client.jobs()
    ((arguments, _),) = runner.ran
    assert {"--me", "--states=all", "--noheader"} <= set(arguments)
    assert not any("json" in argument for argument in arguments)
    assert (record.job_id, record.nodes, record.time_limit_s, record.output) == (17, ("n1", "n2"), 86400.0, "/l/17")


async def test_pitfall_7_a_comment_with_separators_and_lines_stays_in_its_field() -> None:
    client, _ = commands(squeue=listing({"Comment": "tidegate:c1 a|b\nc, d"}, {"JobID": "18"}))
    assert [(record.job_id, record.comment) for record in await client.jobs()] == [
        (17, "tidegate:c1 a|b\nc, d"),
        (18, "tidegate:c1"),
    ]


async def test_a_reason_that_names_every_node_that_is_down_does_not_hide_the_jobs() -> None:
    """``ReqNodeNotAvail, UnavailableNodes:`` of thirty nodes made the pool unknown for as long as they were down."""
    reason = "ReqNodeNotAvail, UnavailableNodes:" + ",".join(f"rack{number}" for number in range(100))
    client, _ = commands(squeue=listing({"Reason": reason[:128], "State": "PENDING"}))
    (job,) = await client.jobs()
    assert job.reason == reason[:128]


async def test_pitfall_8_a_job_that_is_listed_no_more_is_absent_and_nothing_is_made_up_for_it() -> None:
    now = 1000.0
    slurm = FakeSlurm(lambda: now, min_job_age_s=300.0)
    job_id = await slurm.submit(JOB)
    slurm.finish(job_id)
    assert [record.state for record in await slurm.jobs()] == [JobState.COMPLETED]
    now += 301.0
    assert await slurm.jobs() == ()
    client, _ = commands(squeue=listing({"JobID": "99"}))
    assert [record.job_id for record in await client.jobs()] == [99]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1-00:00:00", 86400.0),
        ("2-03:04:05", 183845.0),
        ("1-12", 129600.0),
        ("1-12:30", 131400.0),
        ("10:00", 600.0),
        ("1:00:00", 3600.0),
        ("60", 3600.0),
        ("0:00", 0.0),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("N/A", None),
    ],
)
def test_pitfall_12_times_of_days_and_words_are_read(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


def test_pitfall_12_what_is_no_time_is_no_time() -> None:
    with pytest.raises(ValueError, match="INVALID"):
        seconds("INVALID")


async def test_a_corrupt_record_of_somebody_elses_job_does_not_hide_ours() -> None:
    client, _ = commands(squeue=listing({"JobID": "16", "Comment": "mine", "State": "BEYOND"}, {}))
    assert [record.job_id for record in await client.jobs()] == [17]


async def test_a_corrupt_record_that_may_be_ours_makes_the_jobs_unknown() -> None:
    client, _ = commands(squeue=listing({"State": "BEYOND"}, {"JobID": "18"}))
    with pytest.raises(TransientError, match="may be ours"):
        await client.jobs()
