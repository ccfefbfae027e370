"""Slurm's reasons for a job to wait, in words for people: what it waits for, and who can change that. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Who(StrEnum):
    """NOBODY: it passes by itself. US: an operator of this broker. ADMINS: the cluster's administrators."""

    NOBODY = "it passes by itself"
    US = "mend the pool in site.yaml"
    ADMINS = "the cluster's administrators can change it"


@dataclass(frozen=True, slots=True)
class Waiting:
    """``words`` is a clause after "waits", ``passes`` whether it may end without anybody doing anything."""

    words: str
    who: Who

    @property
    def passes(self) -> bool:
        return self.who is Who.NOBODY

    def __str__(self) -> str:
        return f"it waits {self.words}; {self.who.value}"


_KNOWN = {
    "None": Waiting("for the scheduler's next look", Who.NOBODY),
    "Priority": Waiting("behind jobs of higher priority", Who.NOBODY),
    "Resources": Waiting("at the head of its queue for nodes or GPUs to come free", Who.NOBODY),
    "BeginTime": Waiting("for the time at which it may begin", Who.NOBODY),
    "Cleaning": Waiting("for what is left of its earlier run to be cleaned up", Who.NOBODY),
    "Prolog": Waiting("for the prolog on its nodes", Who.NOBODY),
    "Dependency": Waiting("for another job that it depends on", Who.US),
    "DependencyNeverSatisfied": Waiting("for a job that will never end as it should", Who.US),
    "Licenses": Waiting("for a licence to come free", Who.NOBODY),
    "Reservation": Waiting("for its reservation to begin", Who.NOBODY),
    "ReservationDeleted": Waiting("for a reservation that is there no more", Who.US),
    "ReqNodeNotAvail": Waiting("for nodes that are down, drained or reserved", Who.ADMINS),
    "NodeDown": Waiting("for a node that is down", Who.ADMINS),
    "PartitionDown": Waiting("because its partition is down", Who.ADMINS),
    "PartitionInactive": Waiting("because its partition is inactive", Who.ADMINS),
    "PartitionNodeLimit": Waiting("because it asks for more nodes than its partition gives or has up", Who.US),
    "PartitionTimeLimit": Waiting("because its wall time is over its partition's limit", Who.US),
    "PartitionConfig": Waiting("because its partition does not take what it asks for", Who.US),
    "BadConstraints": Waiting("for features that no node has", Who.US),
    "AccountNotAllowed": Waiting("because its partition does not take its account", Who.US),
    "QOSNotAllowed": Waiting("because its partition or account does not take its quality of service", Who.US),
    "InvalidAccount": Waiting("because its account is not valid", Who.US),
    "InvalidQOS": Waiting("because its quality of service is not valid", Who.US),
    "QOSUsageThreshold": Waiting("because its quality of service has used up its share", Who.NOBODY),
    "JobHeldUser": Waiting("because it is held by its user: `scontrol release` lets it go", Who.US),
    "JobHeldAdmin": Waiting("because an administrator holds it", Who.ADMINS),
    "JobArrayTaskLimit": Waiting("for other tasks of its array", Who.NOBODY),
    "MaxRequeue": Waiting("because it was requeued too often and is held", Who.ADMINS),
    "launch failed requeued held": Waiting("because it could not be launched and is held", Who.ADMINS),
    "FedJobLock": Waiting("for the other clusters of its federation", Who.NOBODY),
    "SchedDefer": Waiting("for the scheduler, which puts off busy times", Who.NOBODY),
    "BurstBufferResources": Waiting("for room in the burst buffer", Who.NOBODY),
    "BurstBufferStageIn": Waiting("for its files to be staged into the burst buffer", Who.NOBODY),
    "InactiveLimit": Waiting("because it was inactive for too long", Who.ADMINS),
    "NonZeroExitCode": Waiting("though it has ended with an error", Who.US),
}

_OF_PARTITION = re.compile(r"Job's (account|QOS) not (known|permitted)")
"""How squeue tells of ``AccountNotAllowed`` and ``QOSNotAllowed``, with what the partition takes."""
_LIMIT = re.compile(r"(Assoc|QOS)(Grp|Max)([A-Za-z]+?)(?:Limit)?")
_WHOSE = {
    ("Assoc", "Grp"): "of its account as a whole",
    ("Assoc", "Max"): "of its user or account for one user",
    ("QOS", "Grp"): "of its quality of service as a whole",
    ("QOS", "Max"): "of its quality of service for one user or job",
}
_OF_WHAT = {
    "cpu": "processor cores",
    "gres": "GPUs and other generic resources",
    "mem": "memory",
    "node": "nodes",
    "job": "running jobs",
    "submitjob": "jobs in the queue",
    "wall": "wall time",
    "billing": "billing units",
    "energy": "energy",
    "bb": "burst buffer",
    "license": "licences",
    "unknown": "some resource",
}
_NEVER_PASSES = ("perjob", "wallduration", "maxwall", "minutesperjob")


def explain(reason: str) -> Waiting:
    """``reason`` as ``squeue`` and slurmrestd tell it, with whatever stands behind it in brackets or after a comma."""
    bare = re.split(r"[,(:]", reason.strip().strip("()"), maxsplit=1)[0].strip() or "None"
    if (told := _OF_PARTITION.match(bare)) is not None:
        bare = "AccountNotAllowed" if told[1] == "account" else "QOSNotAllowed"
    known = _KNOWN.get(bare) or _KNOWN.get(bare.split("_", 1)[0])
    if known is not None:
        return known
    limit = _LIMIT.fullmatch(bare)
    if limit is not None:
        return _of_limit(limit[1], limit[2], limit[3])
    return Waiting(
        f"for what Slurm calls {bare!r}, which this Tidegate does not know (`scontrol show job` says more)", Who.ADMINS
    )


def _of_limit(kind: str, scope: str, what: str) -> Waiting:
    """``AssocGrpGRES``, ``QOSMaxJobsPerUserLimit`` and their like: a family of some eighty names."""
    compact = what.lower()
    of_what = next((words for start, words in _OF_WHAT.items() if compact.startswith(start)), what)
    minutes = "minutes of " if "minutes" in compact and "run" not in compact else ""
    minutes = "minutes, still to run, of " if "runminutes" in compact else minutes
    words = f"at the limit {_WHOSE[kind, scope]} on {minutes}{of_what}"
    if any(mark in (scope + what).lower() for mark in _NEVER_PASSES):
        return Waiting(f"because this one job is over the limit {_WHOSE[kind, scope]} on {minutes}{of_what}", Who.US)
    if minutes:
        return Waiting(words, Who.ADMINS)
    return Waiting(f"{words} until other jobs under it end", Who.NOBODY)
