"""Parsers v0.0.40 to v0.0.45, of Slurm 23.11 and later. Pure.

A number is ``{set, infinite, number}``, a state the list of its parts, an environment a list. From v0.0.41 the script
is part of the job and addresses of collections end in a slash.
"""

from __future__ import annotations

from collections.abc import Mapping

from actuators.slurm.client import PartitionFacts, ReservationFacts
from actuators.slurm.exit_status import ended
from actuators.slurm.job import JobRecord, JobSpec, JobState
from actuators.slurm.rest.family import Json, environment, job_record, names, text
from actuators.slurm.texts import gpus_among, hosts, minutes_up, moment, number


class V40:
    tells_states = True
    listing_query: Mapping[str, str] = {"flags": "ALL"}
    """Without it they are ALL and DETAIL, which adds each core of each job: half of the answer and more."""

    def __init__(self, version: int) -> None:
        self._version = version

    def submission(self, job: JobSpec) -> Json:
        wanted: dict[str, object] = {
            "name": job.name,
            "comment": job.comment,
            "partition": job.partition,
            "time_limit": _wire(minutes_up(job.time_limit_s)),
            "standard_output": job.output,
            "current_working_directory": job.working_directory,
            "environment": [f"{name}={value}" for name, value in environment(job).items()],
            "minimum_nodes": job.nodes,
            "maximum_nodes": job.nodes,
            "tres_per_node": _gres(job) if job.gpus else None,
            "cpus_per_task": job.cpus,
            "memory_per_node": _wire(job.memory_mib) if job.memory_mib else None,
            "account": job.account,
            "qos": job.qos,
            "constraints": job.constraint,
            "reservation": job.reservation,
            "licenses": ",".join(job.licenses),
            "excluded_nodes": list(job.exclude) or None,
            "requeue": False,
        }
        if job.warning:
            wanted |= {
                "kill_warning_signal": job.warning.name,
                "kill_warning_delay": _wire(job.warning.before_s),
                "kill_warning_flags": ["BATCH_JOB"],
            }
        written = {name: value for name, value in wanted.items() if value not in (None, "")}
        if self._version < 41:
            return {"script": job.script, "job": written}
        return {"job": {**written, "script": job.script}}

    def signal_query(self, name: str) -> Mapping[str, str]:
        return {"signal": name, "flags": "BATCH_JOB"}

    def path(self, collection: str) -> str:
        return collection if self._version < 41 else f"{collection}/"

    def job(self, raw: Json) -> JobRecord:
        restarts = int(number(raw["restart_cnt"]) or 0)
        return job_record(raw, raw["job_state"], lambda state: _exit(raw["exit_code"], state), restarts)

    def partition(self, raw: Json) -> PartitionFacts:
        longest, default = number(raw["maximums"]["time"]), number(raw["defaults"]["time"])
        return PartitionFacts(
            name=str(raw["name"]),
            up="UP" in raw["partition"]["state"],
            nodes=int(raw["nodes"]["total"]),
            max_time_s=None if longest is None else longest * 60,
            default_time_s=None if default is None else default * 60,
            accounts=names(raw["accounts"]["allowed"]),
            qos=names(raw["qos"]["allowed"]),
            gpus=gpus_among(text(raw["tres"]["configured"])),
        )

    def reservation(self, raw: Json) -> ReservationFacts:
        listed = raw["node_list"]
        return ReservationFacts(
            name=str(raw["name"]),
            start_at=moment(raw["start_time"]) or 0.0,
            end_at=moment(raw["end_time"]) or float("inf"),
            nodes=hosts(",".join(names(listed))),
            partition=text(raw.get("partition")) or None,
            maintenance="MAINT" in names(raw["flags"]),
        )


def _wire(value: int) -> Json:
    return {"set": True, "infinite": False, "number": value}


def _gres(job: JobSpec) -> str:
    return ":".join(part for part in ("gres/gpu", job.gpu_type, str(job.gpus)) if part)


def _exit(raw: Json, state: JobState) -> tuple[int | None, int | None]:
    code, signalled = number(raw["return_code"]), number(raw["signal"]["id"])
    return ended(None if code is None else int(code), None if signalled is None else int(signalled), state)
