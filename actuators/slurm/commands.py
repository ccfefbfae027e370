"""Slurm's commands, run here or on another machine, as a ``SlurmClient``."""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog

from actuators.slurm import sacct, sbatch, scontrol, squeue
from actuators.slurm.client import SiteFacts, SubmitUnclear
from actuators.slurm.job import JobRecord, JobSpec
from actuators.slurm.listing import readable
from actuators.slurm.preamble import exports, with_lines
from actuators.slurm.refusals import call_refused, gone, submit_refused
from actuators.slurm.runner import SETTINGS, Finished, Runner, Unfinished
from broker.model.errors import TransientError
from broker.model.ports import Clock

log = structlog.get_logger(__name__)

TIMEOUT_S = 30.0
ACCOUNTING_TIMEOUT_S = 5.0
"""Jobs are listed without it: a database that is slow must not keep a pool unknown."""
_JOB_ID = re.compile(r"^(\d+)(;\S+)?$", re.MULTILINE)


class CommandClient:
    """As the user that the commands run as, who sees and touches no jobs but their own."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self._runner = runner
        self._clock = clock

    async def submit(self, job: JobSpec) -> int:
        script = with_lines(job, [f"unset {' '.join(SETTINGS)}", *exports(job.environment)])
        try:
            done = await self._runner.run(sbatch.arguments(job), script, timeout_s=TIMEOUT_S)
        except Unfinished as error:
            raise SubmitUnclear(f"{job.name} may have been submitted or not: {error}", retry_after_s=5.0) from error
        said = done.errors.strip()
        if (told := _JOB_ID.search(done.output)) is None:
            if done.status == 0:
                raise SubmitUnclear(
                    f"{self._where} told no id of {job.name}, and no error: {said or 'it said nothing'}"
                )
            raise submit_refused(said or done.output, job, self._where)
        if said or done.status:
            # An id is a job, whatever else was said: filters of the site print advice, and a plug-in may fail after it.
            log.info("sbatch_said", name=job.name, job_id=int(told[1]), status=done.status, said=said[:500])
        return int(told[1])

    async def jobs(self) -> tuple[JobRecord, ...]:
        done = await self._run(squeue.ARGUMENTS, "list the jobs")
        if not done.output.strip() and "error" in done.errors:
            raise call_refused(done.errors, "list the jobs", self._where)
        return readable(squeue.fields(done.output, self._where), squeue.record, squeue.comment_of, self._where)

    async def unchanged(self, jobs: Sequence[JobRecord]) -> None:
        """``squeue`` tells of our user's jobs alone: a question for less would cost slurmctld as much."""

    async def ended(self, within_s: float) -> tuple[JobRecord, ...]:
        done = await self._runner.run(sacct.arguments(within_s), timeout_s=ACCOUNTING_TIMEOUT_S)
        if sacct.DISABLED in done.errors:
            return ()
        if done.status:
            raise call_refused(done.errors or done.output, "show its accounting", self._where)
        user = await self._user()  # of root, sacct shows everybody's
        records = readable(sacct.fields(done.output), sacct.record, sacct.comment_of, self._where)
        return tuple(record for record in records if record.user == user and record.gone)

    async def cancel(self, job_id: int) -> None:
        await self._scancel(job_id, "end")

    async def signal(self, job_id: int, name: str) -> None:
        await self._scancel(job_id, "signal", "--batch", f"--signal={name}")

    async def facts(self) -> SiteFacts:
        asked_at = self._clock.now()
        configuration = await self._run(scontrol.CONFIGURATION, "show its configuration")
        answered_at = self._clock.now()
        release, as_of = scontrol.release_and_time(configuration.output)
        partitions = await self._run(scontrol.PARTITIONS, "show its partitions")
        reservations = await self._run(scontrol.RESERVATIONS, "show its reservations")
        user = await self._user()
        try:
            return SiteFacts(
                release=release,
                transport=self._where,
                user=user,
                partitions=tuple(scontrol.partitions(partitions.output)),
                reservations=tuple(scontrol.reservations(reservations.output)),
                clock_skew_s=None if as_of is None else skew_s(as_of, asked_at, answered_at),
                accounted=scontrol.accounted(configuration.output),
            )
        except (ValueError, KeyError) as error:
            raise TransientError(f"{self._where} shows a site that cannot be read: {error}") from error

    async def close(self) -> None:
        await self._runner.close()

    @property
    def _where(self) -> str:
        return self._runner.where

    async def _user(self) -> str:
        return (await self._run(("id", "-un"), "tell the user")).output.strip()

    async def _scancel(self, job_id: int, verb: str, *options: str) -> None:
        arguments = ("scancel", *options, str(job_id))
        done = await self._runner.run(arguments, timeout_s=TIMEOUT_S)
        # Releases differ in whether an unknown job is an error, and 22.05 tells errors with status 0 too.
        if (done.status or "error" in done.errors) and not gone(done.errors):
            raise call_refused(done.errors, f"{verb} job {job_id}", self._where)

    async def _run(self, arguments: Sequence[str], what: str) -> Finished:
        done = await self._runner.run(arguments, timeout_s=TIMEOUT_S)
        if done.status:
            raise call_refused(done.errors or done.output, what, self._where)
        return done


def skew_s(controller_at: float, asked_at: float, answered_at: float) -> float:
    """How far the controller's clock, which tells whole seconds, is ahead of ours: 0 if both can be right."""
    if controller_at > answered_at:
        return controller_at - answered_at
    return min(0.0, controller_at + 1.0 - asked_at)
