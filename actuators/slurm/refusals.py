"""What Slurm says when it does not do as asked, as our errors. One table, since every transport passes on the same
words (``slurm_strerror``): numbers differ between releases, and 22.05 sends none at all in places. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from actuators.slurm.client import SubmitUnclear
from actuators.slurm.job import JobSpec
from actuators.slurm.sbatch import gres
from broker.model.errors import ActionRejected, ActuatorError, CapacityUnavailable, TransientError

GONE = ("invalid job id", "already completing or completed")
"""Said of a job that cannot be ended or signalled any more."""

AUTHENTICATION = ("authentication", "invalid user id", "authorization")
UNREACHABLE = ("unable to contact slurm controller", "connection refused", "connect failure", "connection failure",
               "in standby mode", "no route to host", "unable to establish configuration source")  # fmt: skip
"""Said before anything was sent: nothing has happened."""
BUSY = ("temporarily unable", "socket timed out", "zero bytes", "unexpected message", "insane message",
        "connection reset", "send/recv", "unspecified error")  # fmt: skip
"""Said in the middle of it: what was asked for may have happened."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """``needle`` is part of Slurm's words in lower case, ``asked`` names what was asked for, ``mend`` says what to do;
    both may use a ``JobSpec``'s fields in braces. ``key`` is what of the pool in ``site.yaml`` it comes from, empty
    where it passes."""

    needle: str
    asked: str
    key: str
    mend: str
    error: type[ActuatorError] = ActionRejected


GRES_KEYS = "gpu_type, job.cpus_per_gpu, job.memory_per_gpu, or the model's gpus in policies.yaml"

REFUSALS = (
    Refusal("partition name", "partition {partition}", "partition", "name one that `sinfo -s` lists"),
    Refusal("invalid partition", "partition {partition}", "partition", "name one that `sinfo -s` lists"),
    Refusal("group not permitted", "partition {partition}", "partition",
            "ask for access, or name a partition that is open to you"),
    Refusal("partition not available", "partition {partition}", "", "it is closed: wait, or name another",
            CapacityUnavailable),
    Refusal("partition configuration not available", "partition {partition}", "",
            "compare with `scontrol show partition {partition}`", CapacityUnavailable),
    Refusal("invalid account", "account {account}, partition {partition}", "account",
            "name one that `sacctmgr show associations user=$USER` lists for the partition"),
    Refusal("qos specification", "QOS {qos}", "qos", "name one that `sacctmgr show associations user=$USER` lists"),
    Refusal("accounting/qos policy", "account {account}, QOS {qos}", "",
            "a limit of the account or the QOS is reached: it passes as jobs end, or lower what is asked for",
            CapacityUnavailable),
    Refusal("time limit", "a time limit of {minutes} minutes in partition {partition}", "time_limit",
            "ask for no more than `scontrol show partition {partition}` allows (MaxTime)"),
    Refusal("gres", "{gres}", GRES_KEYS, "ask for a type and count that `sinfo -o '%P %G'` lists"),
    Refusal("node configuration", "{gres}, {cpus} CPUs, {memory} of memory on {nodes} node(s) in {partition}",
            GRES_KEYS, "no node there has that much: compare with `sinfo -p {partition} -o '%n %c %m %G %f'`"),
    Refusal("node count", "{nodes} node(s) in partition {partition}", "partition",
            "compare with `scontrol show partition`"),
    Refusal("more processors", "{cpus} CPUs on {nodes} node(s)", "job.cpus_per_gpu",
            "compare with `scontrol show partition {partition}`"),
    Refusal("memory required", "{memory} of memory", "job.memory_per_gpu",
            "compare with `sinfo -p {partition} -o '%n %m'`"),
    Refusal("feature specification", "constraint {constraint}", "constraint",
            "name features that `sinfo -o '%P %f'` lists"),
    Refusal("license", "licences {licenses}", "job.licenses", "name some that `scontrol show licenses` lists"),
    Refusal("reservation", "reservation {reservation}", "job.reservation",
            "name one that `scontrol show reservation` lists and that is open to you"),
    Refusal("node name", "without nodes {exclude}", "job.exclude", "name nodes that `sinfo -N` lists"),
    Refusal("permission denied", "account {account}, partition {partition}", "account or partition",
            "the user may not do this: ask the site for the right, or name others"),
    Refusal("failure during parsing", "{gres}", GRES_KEYS,
            "slurmrestd cannot read a value, most often a GRES that the cluster does not have: compare with "
            "`sinfo -o '%P %G'`"),
)  # fmt: skip


def gone(words: str) -> bool:
    """Whether Slurm says that there is nothing left to end or to signal: success."""
    return _has(words, GONE)


def submit_refused(words: str, job: JobSpec, where: str) -> ActuatorError:
    """Why ``job`` was not taken, or may not have been. ``words`` are Slurm's, of one line or more."""
    said = one_line(words)
    if (known := _unreachable(said, where)) is not None:
        return known
    if _has(said, BUSY):
        return SubmitUnclear(
            f"{where} did not answer for {job.name} as it should: {said}; the job may have been submitted, which the "
            "next listing tells",
            retry_after_s=5.0,
        )
    for refusal in REFUSALS:
        if refusal.needle in said.lower():
            fields = _fields(job)
            asked, mend = refusal.asked.format_map(fields), refusal.mend.format_map(fields)
            key = f"mend {refusal.key}: " if refusal.key else ""
            return refusal.error(f"a job is refused by {where} ({asked}): {said}; {key}{mend}")
    return ActionRejected(f"a job is refused by {where}: {said}; try the printed script with `sbatch --test-only`")


def call_refused(words: str, what: str, where: str) -> ActuatorError:
    """Why ``what`` (``list the jobs``) was not done; nothing can be concluded from it about jobs."""
    said = one_line(words)
    if (known := _unreachable(said, where)) is not None:
        return known
    if "permission denied" in said.lower():
        return ActionRejected(f"this user may not {what} by {where}: {said}; ask the site for the right")
    return TransientError(f"{where} did not {what}: {said}", retry_after_s=5.0)


def _unreachable(said: str, where: str) -> ActuatorError | None:
    if _has(said, UNREACHABLE):
        return TransientError(
            f"{where} cannot reach slurmctld: {said}; see that it runs, and SlurmctldHost of slurm.conf",
            retry_after_s=5.0,
        )
    if _has(said, AUTHENTICATION):
        return ActionRejected(
            f"this user is not known to {where}: {said}; see that munge runs, that the clocks agree, and that the "
            "token is of this cluster"
        )
    return None


def _has(words: str, needles: tuple[str, ...]) -> bool:
    lower = words.lower()
    return any(needle in lower for needle in needles)


def one_line(words: str) -> str:
    """Slurm's words on one line, of bounded length, each said once."""
    lines = dict.fromkeys(line.strip() for line in words.splitlines() if line.strip())
    return "; ".join(lines)[:500] or "no reason given"


def _fields(job: JobSpec) -> dict[str, object]:
    return {
        "partition": job.partition,
        "account": job.account or "of the user's own",
        "qos": job.qos or "of the partition",
        "minutes": f"{job.time_limit_s / 60:g}",
        "gres": gres(job) or "no GPUs",
        "cpus": job.cpus or "its share of",
        "memory": f"{job.memory_mib} MiB" if job.memory_mib else "the default",
        "nodes": job.nodes,
        "constraint": job.constraint,
        "licenses": ",".join(job.licenses),
        "reservation": job.reservation,
        "exclude": ",".join(job.exclude),
    }
