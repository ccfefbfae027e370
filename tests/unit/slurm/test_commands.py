from __future__ import annotations

import pytest

from actuators.slurm import sbatch, scontrol
from actuators.slurm.commands import CommandClient, skew_s
from actuators.slurm.job import JobSpec, JobState, WarningSignal
from actuators.slurm.preamble import with_lines
from actuators.slurm.runner import Finished, LocalRunner, Unfinished
from broker.model.errors import ActionRejected, CapacityUnavailable, TransientError
from tests.support.fake_runner import FakeRunner
from tests.support.fake_slurmrestd import FixedClock
from tests.unit.slurm.test_pitfalls import JOB, commands, listing

FULL = JobSpec(
    "tg-a", "tidegate:c1", "#!/bin/bash\n# hello\n#SBATCH --foo\n\necho hi\n", "gpu", 3601.0, "/l/%j", "/w", nodes=2,
    gpus=4, gpu_type="h100", cpus=8, memory_mib=4096, account="lab", qos="high", constraint="a&b", reservation="r1",
    licenses=("x:2", "y"), exclude=("n7", "n8"), warning=WarningSignal("USR1", 600), environment={"KEY": "it's"},
)  # fmt: skip


def test_all_that_a_job_asks_for_is_an_option_of_sbatch_and_its_environment_is_none() -> None:
    arguments = sbatch.arguments(FULL)
    assert set(arguments) == {
        "sbatch", "--parsable", "--no-requeue", "--job-name=tg-a", "--comment=tidegate:c1", "--partition=gpu",
        "--time=61", "--output=/l/%j", "--chdir=/w", "--nodes=2", "--gres=gpu:h100:4", "--cpus-per-task=8",
        "--mem=4096M", "--account=lab", "--qos=high", "--constraint=a&b", "--reservation=r1", "--licenses=x:2,y",
        "--exclude=n7,n8", "--signal=B:USR1@600", "--export=ALL",
    }  # fmt: skip
    assert "it's" not in " ".join(arguments)


def test_what_a_job_leaves_open_is_left_to_the_cluster() -> None:
    options = {argument.partition("=")[0] for argument in sbatch.arguments(JOB)}
    assert not options & {"--gres", "--cpus-per-task", "--mem", "--account", "--qos", "--signal", "--exclude"}


async def test_the_environment_goes_into_the_script_behind_its_comments() -> None:
    client, runner = commands(sbatch=Finished(0, "1\n", ""))
    await client.submit(FULL)
    ((_, script),) = runner.ran
    assert script == (
        "#!/bin/bash\n# hello\n#SBATCH --foo\n\nunset LC_ALL SLURM_TIME_FORMAT\nexport KEY='it'\"'\"'s'\necho hi\n"
    )


def test_a_script_is_not_touched_but_for_the_lines_that_are_put_in() -> None:
    """A program in it may hold characters that end lines elsewhere."""
    job = JobSpec("tg-a", "tidegate:", "#!/bin/sh\n# note\ncat <<'E'\na\x0cb\u2028c\r\nE\nexit", "gpu", 60.0, "", "")
    assert with_lines(job, ["true"]) == "#!/bin/sh\n# note\ntrue\ncat <<'E'\na\x0cb\u2028c\r\nE\nexit"


@pytest.mark.parametrize("script", ["", "echo no first line\n", "#!/usr/bin/env python3\nprint(1)\n"])
def test_a_script_of_no_shell_is_refused(script: str) -> None:
    job = JobSpec("tg-a", "tidegate:", script, "gpu", 60.0, "", "")
    with pytest.raises(ActionRejected, match="#!/bin/sh"):
        with_lines(job, ["true"])


async def test_a_variable_that_no_shell_takes_is_refused_before_anything_is_submitted() -> None:
    client, runner = commands(sbatch=Finished(0, "1\n", ""))
    job = JobSpec("tg-a", "tidegate:", "#!/bin/sh\n", "gpu", 60.0, "", "", environment={"A;rm -rf": "x"})
    with pytest.raises(ActionRejected, match="no shell takes"):
        await client.submit(job)
    assert runner.ran == []


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ("Invalid partition name specified", ActionRejected, "partition gpu"),
        ("Invalid account or account/partition combination specified", ActionRejected, "account lab"),
        ("Invalid generic resource (gres) specification", ActionRejected, "gpu:h100:4"),
        ("Requested time limit is invalid (missing or exceeds some limit)", ActionRejected, "60.0167 minutes"),
        ("Invalid qos specification", ActionRejected, "QOS high"),
        ("Requested node configuration is not available", ActionRejected, "4096 MiB"),
        ("Invalid feature specification", ActionRejected, "constraint a&b"),
        ("Requested reservation is invalid", ActionRejected, "reservation r1"),
        ("User's group not permitted to use this partition", ActionRejected, "access"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", CapacityUnavailable,
         "account lab"),
        ("Required partition not available (inactive or drain)", CapacityUnavailable, "closed"),
        ("Unable to contact slurm controller (connect failure)", TransientError, "slurmctld"),
        ("Protocol authentication error", ActionRejected, "munge"),
        ("Something never heard of", ActionRejected, "--test-only"),
    ],
)  # fmt: skip
async def test_a_refusal_says_what_where_and_how_to_mend(words: str, kind: type[Exception], told: str) -> None:
    client, _ = commands(sbatch=Finished(1, "", f"sbatch: error: Batch job submission failed: {words}\n"))
    with pytest.raises(kind) as refused:
        await client.submit(FULL)
    assert type(refused.value) is kind
    sentence = str(refused.value)
    assert words in sentence
    assert "login1" in sentence
    assert told in sentence


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, ""),
        (0, "scancel: error: Kill job error on job id 7: Invalid job id specified"),
        (1, "scancel: error: Kill job error on job id 7: Invalid job id specified"),
        (1, "scancel: error: Kill job error on job id 7: Job/step already completing or completed"),
    ],
)
async def test_a_job_that_is_gone_is_ended(status: int, words: str) -> None:
    client, runner = commands(scancel=Finished(status, "", words))
    await client.cancel(7)
    await client.signal(7, "USR1")
    assert [arguments for arguments, _ in runner.ran] == [
        ("scancel", "7"),
        ("scancel", "--batch", "--signal=USR1", "7"),
    ]


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (0, "scancel: error: Kill job error on job id 7: Access/permission denied", ActionRejected),
        (1, "scancel: error: Kill job error on job id 7: Job is pending execution", TransientError),
        (1, "scancel: error: Unable to contact slurm controller (connect failure)", TransientError),
    ],
)
async def test_a_job_that_could_not_be_ended_is_told(status: int, words: str, kind: type[Exception]) -> None:
    client, _ = commands(scancel=Finished(status, "", words))
    with pytest.raises(kind):
        await client.cancel(7)


@pytest.mark.parametrize(
    ("fields", "state", "code", "signalled"),
    [
        ({"State": "FAILED", "exit_code": "768"}, JobState.FAILED, 3, None),
        ({"State": "FAILED", "exit_code": "3:0"}, JobState.FAILED, 3, None),
        ({"State": "CANCELLED", "exit_code": "0:15"}, JobState.CANCELLED, None, 15),
        ({"State": "CANCELLED", "exit_code": "15"}, JobState.CANCELLED, None, 15),
        ({"State": "NODE_FAIL", "exit_code": "0"}, JobState.NODE_FAIL, None, None),
        ({"State": "COMPLETED", "exit_code": "0"}, JobState.COMPLETED, 0, None),
        ({"State": "COMPLETING", "exit_code": "0"}, JobState.ENDING, None, None),
        ({"State": "CONFIGURING"}, JobState.RUNNING, None, None),
        ({"State": "REQUEUE_HOLD"}, JobState.PENDING, None, None),
        ({"State": "STOPPED"}, JobState.RUNNING, None, None),
    ],
)
async def test_states_and_exit_codes_of_all_releases_are_read(
    fields: dict[str, str], state: JobState, code: int | None, signalled: int | None
) -> None:
    client, _ = commands(squeue=listing(fields))
    (record,) = await client.jobs()
    assert (record.state, record.exit_code, record.exit_signal) == (state, code, signalled)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        pytest.param(("accounting_storage/none", "(null)"), None, id="none"),
        pytest.param(("(null)", "(null)"), None, id="none, as newer releases tell it"),
        pytest.param(("accounting_storage/slurmdbd", "(null)"), (), id="nothing beyond the usual"),
        pytest.param(("accounting_storage/slurmdbd", "job_comment,job_env"), ("job_comment", "job_env"), id="comments"),
    ],
)
def test_what_accounting_keeps_is_told(lines: tuple[str, str], kept: tuple[str, ...] | None) -> None:
    storage, flags = lines
    output = f"AccountingStorageType   = {storage}\nAccountingStorageUser   = N/A\nAccountingStoreFlags    = {flags}\n"
    assert scontrol.accounted(output) == kept


async def test_the_controllers_configuration_partitions_and_reservations_are_facts() -> None:
    answers = {
        "show config": "Configuration data as of 1795261290\nSLURM_VERSION           = 24.11.5\n",
        "show partition": "PartitionName=gpu AllowAccounts=lab,chem AllowQos=ALL DefaultTime=NONE MaxTime=UNLIMITED "
        "Nodes=n[1-4] State=DOWN TotalNodes=4 JobDefaults=(null) "
        "TRES=cpu=64,gres/gpu=16,gres/gpu:a100=16,gres/gpumem=1G\n",
        "show reservation": "ReservationName=m1 StartTime=1795305219 EndTime=1795308819 Nodes=n[2,4] "
        "PartitionName=(null) Flags=MAINT,SPEC_NODES Comment=of the year State=INACTIVE\n",
    }

    class Site(FakeRunner):
        async def run(self, arguments: object, given: str = "", *, timeout_s: float) -> Finished:
            words = tuple(map(str, arguments))  # type: ignore[call-overload]
            return Finished(0, answers.get(" ".join(words[1:3]), "tide\n"), "")

    facts = await CommandClient(Site(), FixedClock(1795261300.0)).facts()
    (partition,), (reservation,) = facts.partitions, facts.reservations
    assert (facts.release, facts.user, facts.clock_skew_s) == ("24.11.5", "tide", -9.0)
    assert (partition.up, partition.nodes, partition.max_time_s, partition.default_time_s, partition.accounts) == (
        False,
        4,
        None,
        None,
        ("lab", "chem"),
    )
    assert partition.gpus == 16
    assert (reservation.nodes, reservation.start_at, reservation.maintenance, reservation.partition) == (
        ("n2", "n4"),
        1795305219.0,
        True,
        None,
    )


def test_a_clock_that_tells_whole_seconds_is_believed_within_them() -> None:
    assert skew_s(100.0, 100.2, 100.9) == 0.0
    assert skew_s(100.0, 99.9, 100.1) == 0.0
    assert skew_s(160.0, 100.0, 100.5) == 59.5
    assert skew_s(40.0, 100.0, 100.5) == -59.0


@pytest.mark.integration
class TestLocalRunner:
    async def test_a_command_that_does_not_end_is_ended_with_all_it_started(self) -> None:
        runner = LocalRunner()
        with pytest.raises(Unfinished, match=r"0\.2 s"):
            await runner.run(("sh", "-c", "sleep 60 & sleep 60"), timeout_s=0.2)

    async def test_nothing_of_our_environment_reaches_a_command_but_what_it_needs(self) -> None:
        runner = LocalRunner(
            {"PATH": "/usr/bin:/bin", "TIDEGATE_SECRET": "s", "SQUEUE_STATES": "R", "SLURM_CONF": "/c"}
        )
        done = await runner.run(("env",), timeout_s=10.0)
        assert sorted(done.output.split()) == [
            "LC_ALL=C",
            "PATH=/usr/bin:/bin",
            "SLURM_CONF=/c",
            "SLURM_TIME_FORMAT=%s",
        ]

    async def test_a_command_that_is_not_there_is_told_with_what_to_install(self) -> None:
        with pytest.raises(ActionRejected, match="slurm-client"):
            await LocalRunner().run(("no-such-command",), timeout_s=1.0)

    async def test_a_command_that_does_not_read_its_input_is_no_failure(self) -> None:
        done = await LocalRunner().run(("true",), "x" * 1_000_000, timeout_s=10.0)
        assert done.status == 0
