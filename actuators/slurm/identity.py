"""How a job says whose it is: its name is the launch's ``action_id``, its comment the replica's identity. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

_COMMENT = re.compile(r"tidegate cluster=(\S+) pool=(\S+) replica=(\S+) generation=([0-9]{1,18})(?: .*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which replica a job carries, in words that survive the loss of every file of ours."""

    cluster: str
    pool_id: str
    replica_id: str
    generation: int

    @property
    def comment(self) -> str:
        """``tidegate cluster=hpc pool=shared replica=chat-0-g7 generation=7``; names are percent-encoded, so that no
        transport, shell or listing finds anything in them that it would read otherwise."""
        names = (quote(name, safe="") for name in (self.cluster, self.pool_id, self.replica_id))
        return "tidegate cluster={} pool={} replica={} generation={}".format(*names, self.generation)


def parse_comment(text: str) -> JobIdentity | None:
    """The inverse of ``JobIdentity.comment``; None for anybody else's comment. What follows the four is ignored."""
    found = _COMMENT.fullmatch(text)
    if found is None:
        return None
    cluster, pool_id, replica_id = (unquote(name) for name in found.groups()[:3])
    return JobIdentity(cluster, pool_id, replica_id, int(found[4]))
