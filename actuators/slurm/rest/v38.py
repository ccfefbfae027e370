"""Parser v0.0.38, of Slurm 22.05 to 23.11. Pure.

Its schema is not to be believed. Seen on 22.05.8: ``requeue: false`` leaves a job requeueable (``no_requeue`` does
not), ``nodes: [2, 2]`` asks for one node (``2`` for two), ``exclude_nodes`` is refused unless it is a string, and a
warning signal for the batch script is refused in every spelling, so that a timer in the script takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping

from actuators.slurm.client import PartitionFacts, ReservationFacts
from actuators.slurm.exit_status import exit_of
from actuators.slurm.job import JobRecord, JobSpec
from actuators.slurm.preamble import warning_timer, with_lines
from actuators.slurm.rest.family import Json, environment, job_record, names, text
from actuators.slurm.sbatch import gres
from actuators.slurm.texts import gpus_among, hosts, minutes_up, moment, number


class V38:
    tells_states = False
    listing_query: Mapping[str, str] = {}

    def submission(self, job: JobSpec) -> Json:
        wanted: dict[str, object] = {
            "name": job.name,
            "comment": job.comment,
            "partition": job.partition,
            "time_limit": minutes_up(job.time_limit_s),
            "standard_output": job.output,
            "current_working_directory": job.working_directory,
            "environment": environment(job),
            "nodes": job.nodes,
            "gres": gres(job),
            "cpus_per_task": job.cpus,
            "memory_per_node": job.memory_mib,
            "account": job.account,
            "qos": job.qos,
            "constraints": job.constraint,
            "reservation": job.reservation,
            "licenses": ",".join(job.licenses),
            "exclude_nodes": ",".join(job.exclude),
            "no_requeue": True,
        }
        lines = warning_timer(job.warning, job.time_limit_s) if job.warning else []
        return {
            "script": with_lines(job, lines) if lines else job.script,
            "job": {name: value for name, value in wanted.items() if value not in (None, "")},
        }

    def signal_query(self, name: str) -> Mapping[str, str]:
        """Reaches the batch script, seen on 22.05.8; there are no flags."""
        return {"signal": name}

    def path(self, collection: str) -> str:
        return collection

    def job(self, raw: Json) -> JobRecord:
        restarts = int(raw["restart_cnt"])
        return job_record(raw, [raw["job_state"]], lambda state: exit_of(int(raw["exit_code"]), state), restarts)

    def partition(self, raw: Json) -> PartitionFacts:
        longest, default = number(raw["max_time_limit"]), number(raw["default_time_limit"])
        return PartitionFacts(
            name=str(raw["name"]),
            up=raw["state"] == "UP",
            nodes=int(raw["total_nodes"]),
            max_time_s=None if longest is None else longest * 60,
            default_time_s=None if default is None else default * 60,
            accounts=names(raw["allowed_accounts"]),
            qos=names(raw["allowed_qos"]),
            gpus=gpus_among(text(raw["tres"])),
        )

    def reservation(self, raw: Json) -> ReservationFacts:
        return ReservationFacts(
            name=str(raw["name"]),
            start_at=moment(raw["start_time"]) or 0.0,
            end_at=moment(raw["end_time"]) or float("inf"),
            nodes=hosts(text(raw["node_list"])),
            partition=text(raw.get("partition")) or None,
            maintenance="MAINT" in names(raw["flags"]),
        )
