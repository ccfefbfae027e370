"""What ``sbatch`` is asked for a job: on its command line, and as the ``#SBATCH`` lines of a printed script. Pure."""

from __future__ import annotations

import re

from actuators.slurm.job import JobSpec
from actuators.slurm.texts import minutes_up
from broker.model.errors import ConfigError

_BARE = re.compile(r"[\w./:=@%,+-]*")


def options(job: JobSpec) -> dict[str, str]:
    """By their long names, without those that ``job`` leaves to the cluster."""
    wanted: dict[str, object] = {
        "job-name": job.name,
        "comment": job.comment,
        "partition": job.partition,
        "time": minutes_up(job.time_limit_s),
        "output": job.output,
        "chdir": job.working_directory,
        "nodes": job.nodes,
        "gres": gres(job),
        "cpus-per-task": job.cpus,
        "mem": f"{job.memory_mib}M" if job.memory_mib else None,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "reservation": job.reservation,
        "licenses": ",".join(job.licenses),
        "exclude": ",".join(job.exclude),
        "signal": f"B:{job.warning.name}@{job.warning.before_s}" if job.warning else None,
    }
    return {option: str(value) for option, value in wanted.items() if value not in (None, "")}


def gres(job: JobSpec) -> str | None:
    """``gpu:h100:2``, as the commands and v0.0.38 take it; None for a job without GPUs."""
    return ":".join(part for part in ("gpu", job.gpu_type, str(job.gpus)) if part) if job.gpus else None


def arguments(job: JobSpec) -> list[str]:
    """The command that submits ``job``, whose script is its standard input. No environment and no secret is in it:
    everybody on a login node can read the arguments of a process."""
    given = [f"--{option}={value}" for option, value in options(job).items()]
    return ["sbatch", "--parsable", "--no-requeue", *given, "--export=ALL"]


def script_options(job: JobSpec) -> list[str]:
    """What follows ``#SBATCH``: for submitting by hand, and for people who read it; slurmrestd reads none of it.
    Raises ``ConfigError`` for a value with a line's end or a quotation mark in it."""
    found = ["--no-requeue"]
    for option, value in options(job).items():
        if not value.isprintable() or '"' in value:
            raise ConfigError(f"{value!r} cannot stand in a job's --{option}; mend it in site.yaml")
        found.append(f"--{option}={value}" if _BARE.fullmatch(value) else f'--{option}="{value}"')
    return found
