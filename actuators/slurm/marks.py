"""How a job says whose it is: its comment, and the name that follows from it. Pure."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from actuators.slurm.job import COMMENT_MARK, JobRecord
from broker.model.identity import action_id, replica_name
from broker.model.plan import Launch

_FORM = re.compile(
    re.escape(COMMENT_MARK)
    + r" cluster=(?P<cluster>\S+) pool=(?P<pool_id>\S+) model=(?P<model_id>\S+)"
    + r" ordinal=(?P<ordinal>[0-9]{1,9}) generation=(?P<generation>[0-9]{1,9}) gpus=(?P<gpus>[0-9]{1,6})"
    + r"(?: log=(?P<log_id>[0-9a-f]{1,16}))?"
)
JOBS_REMEMBERED = 4096
_PLAIN = "/._-"
"""What stands as it is in a value. The rest is quoted as in a URL: Slurm's listings have separators of their own."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Which replica a job is, of which broker, and how many GPUs it holds in all. ``log_id`` is of the log in which its
    launch stands; empty where that is in memory, and in what older releases wrote."""

    cluster: str
    pool_id: str
    model_id: str
    ordinal: int
    generation: int
    gpus: int
    log_id: str = ""

    @property
    def replica_id(self) -> str:
        return replica_name(self.model_id, self.ordinal, self.generation)

    @property
    def job_name(self) -> str:
        """The name of the launch that the job is."""
        return action_id("launch", self.cluster, self.model_id, self.ordinal, self.generation)

    @property
    def comment(self) -> str:
        cluster, pool_id, model_id = (quote(text, safe=_PLAIN) for text in (self.cluster, self.pool_id, self.model_id))
        named = f"cluster={cluster} pool={pool_id} model={model_id}"
        log = f" log={self.log_id}" if self.log_id else ""
        return f"{COMMENT_MARK} {named} ordinal={self.ordinal} generation={self.generation} gpus={self.gpus}{log}"


def mark_of_launch(launch: Launch, log_id: str = "") -> Mark:
    return Mark(
        launch.cluster, launch.pool_id, launch.model_id, launch.ordinal, launch.generation, launch.model.gpus, log_id
    )


def mark_of_job(job: JobRecord) -> Mark | None:
    """None for what is not provably one of ours: the comment must be of our form, and the name follow from it."""
    return _mark(job.name, job.comment)


@functools.lru_cache(maxsize=JOBS_REMEMBERED)
def _mark(name: str, comment: str) -> Mark | None:
    """Each listing shows the same jobs again, and each look at one asks several times whose each is."""
    found = _FORM.fullmatch(comment.strip())
    if found is None:
        return None
    cluster, pool_id, model_id = (unquote(found[name]) for name in ("cluster", "pool_id", "model_id"))
    ordinal, generation, gpus = (int(found[name]) for name in ("ordinal", "generation", "gpus"))
    mark = Mark(cluster, pool_id, model_id, ordinal, generation, gpus, found["log_id"] or "")
    return mark if mark.job_name == name else None
