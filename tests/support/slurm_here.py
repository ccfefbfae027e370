"""A real Slurm on this machine, for people: for as long as one command runs, or until it is told to end.

python -m tests.support.slurm_here run -- COMMAND ...
python -m tests.support.slurm_here up|down [NAME]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import kept
from tests.support.command_line import ROOT
from tests.support.real_slurm import RealSlurm, why_not

STATE = ROOT / "build" / "slurm"
NODES, GPUS = 4, 4
PARTITIONS = (
    "PartitionName=gpu Nodes=ALL Default=YES DefaultTime=10 MaxTime=1-00:00:00 PriorityTier=2",
    "PartitionName=scavenge Nodes=ALL DefaultTime=10 MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE",
)
OPTIONS = (
    "PreemptType=preempt/partition_prio",
    "PreemptMode=REQUEUE",
    "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5",
)
TOKEN_LIFE_S = 7 * 86400
USAGE = 2

DESCRIPTION = """\
Slurm {release} is up: {nodes} nodes of {gpus} GPUs that are counted only; partition gpu, which preempts scavenge.
Its commands here:  {enter} sinfo
For site.yaml (docs/slurm.md; the token is good for a week):

pools:
  slurm:
    kind: slurm
    partition: gpu
    gpus: {all_gpus}
    gpus_per_node: {gpus}
    time_limit: 2h
    transport: {{kind: slurmrestd, url: "{rest_url}", token_file: {folder}/token}}
    job:
      broker_url: http://127.0.0.1:8600
      directory: {folder}/jobs
      python: {python}
      address: 127.0.0.1

Its logs and its jobs' output are in {folder} until {end} ends it.
"""


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.slurm_here", description=__doc__)
    parser.add_argument("order", choices=["run", "up", "down", "keep"])
    parser.add_argument("words", nargs="*", help="the command to run, or the cluster's name")
    given = parser.parse_args(words)
    name = given.words[0] if given.words else "host"
    if given.order == "down":
        return kept.down(_state(name), f"Slurm named {name}")
    if (reason := why_not(rest=True)) is not None:
        print(f"a Slurm on this machine {reason}", file=sys.stderr)
        return USAGE
    match given.order:
        case "run":
            return kept.run(_cluster(), lambda slurm: slurm.environment, given.words)
        case "up":
            return kept.up(_state(name), ["tests.support.slurm_here", "keep", name])
        case _:
            return keep(name)


def _state(name: str) -> Path:
    return STATE / f"{name}.json"


def _cluster() -> RealSlurm:
    return RealSlurm(NODES, PARTITIONS, OPTIONS, rest=True, gpus_per_node=GPUS)


def keep(name: str) -> int:
    """Hold a cluster until SIGTERM."""
    kept.exit_when_told()
    with _cluster() as slurm:
        token = slurm.folder / "token"
        token.touch(mode=0o600)
        token.write_text(slurm.command("scontrol", "token", f"lifespan={TOKEN_LIFE_S}"), encoding="ascii")
        (slurm.folder / "jobs").mkdir()
        kept.keep(_state(name), _description(slurm, name))
    return 0


def _description(slurm: RealSlurm, name: str) -> str:
    """A cluster with a name is of another release, in a mount namespace of its own (``slurm_suite``)."""
    inside, named = ("", "") if name == "host" else (f"nsenter --mount=/proc/{os.getpid()}/ns/mnt ", f" SUITE={name}")
    return DESCRIPTION.format(
        release=slurm.release, nodes=NODES, gpus=GPUS, all_gpus=NODES * GPUS, rest_url=slurm.rest_url,
        folder=slurm.folder, python=sys.executable, end=f"`make slurm-down{named}`",
        enter=f"{inside}env SLURM_CONF={slurm.environment['SLURM_CONF']}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
