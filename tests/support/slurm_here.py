"""A real Slurm on this machine, for people: for as long as one command runs, or until it is told to end.

python -m tests.support.slurm_here run -- COMMAND ...
python -m tests.support.slurm_here up|down [NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

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
USAGE, FAILED = 2, 1
_END_S = 60.0

DESCRIPTION = """\
Slurm {release} is up: {nodes} nodes of {gpus} GPUs that are counted only; partition gpu, which preempts scavenge.
Its commands here:  {enter} sinfo
For site.yaml (docs/slurm.md; the token is good for a week):

pools:
  slurm:
    kind: slurm
    partition: gpu
    gpus: {all_gpus}
    time_limit: 1h
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
    if given.order == "down":
        return down(_name(given.words))
    if (reason := why_not(rest=True)) is not None:
        print(f"a Slurm on this machine {reason}", file=sys.stderr)
        return USAGE
    match given.order:
        case "run":
            return run(given.words)
        case "up":
            return up(_name(given.words))
        case _:
            return keep(_name(given.words))


def _name(words: Sequence[str]) -> str:
    return words[0] if words else "host"


def _cluster() -> RealSlurm:
    return RealSlurm(NODES, PARTITIONS, OPTIONS, rest=True, gpus_per_node=GPUS)


def run(command: Sequence[str]) -> int:
    """The status of ``command``, which finds the Slurm by its environment. Whoever ends us ends it first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda told, _: sys.exit(128 + told))
    with _cluster() as slurm, subprocess.Popen(command, env=slurm.environment) as process:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda told, _: process.send_signal(told))
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the command itself
        status = process.wait()
    return status if status >= 0 else 128 - status


def up(name: str) -> int:
    """Start a keeper of its own session, and print what it started."""
    state = STATE / f"{name}.json"
    if (told := _living(state)) is None:
        STATE.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
        with (STATE / f"{name}.log").open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.support.slurm_here", "keep", name], cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        while (told := _living(state)) is None:
            if keeper.poll() is not None:
                print((STATE / f"{name}.log").read_text(errors="replace"), file=sys.stderr)
                return FAILED
            time.sleep(0.1)
    print(told["description"], end="")
    return 0


def keep(name: str) -> int:
    """Hold a cluster until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state = STATE / f"{name}.json"
    with _cluster() as slurm:
        token = slurm.folder / "token"
        token.touch(mode=0o600)
        token.write_text(slurm.command("scontrol", "token", f"lifespan={TOKEN_LIFE_S}"), encoding="ascii")
        (slurm.folder / "jobs").mkdir()
        began_at = psutil.Process().create_time()
        told = {"pid": os.getpid(), "began_at": began_at, "description": _description(slurm, name)}
        written = state.with_suffix(".new")
        written.write_text(json.dumps(told), encoding="utf-8")
        written.replace(state)
        try:
            signal.pause()
        finally:
            state.unlink(missing_ok=True)
    return 0


def _description(slurm: RealSlurm, name: str) -> str:
    """A cluster with a name is of another release, in a mount namespace of its own (``slurm_suite``)."""
    inside, named = ("", "") if name == "host" else (f"nsenter --mount=/proc/{os.getpid()}/ns/mnt ", f" SUITE={name}")
    return DESCRIPTION.format(
        release=slurm.release, nodes=NODES, gpus=GPUS, all_gpus=NODES * GPUS, rest_url=slurm.rest_url,
        folder=slurm.folder, python=sys.executable, end=f"`make slurm-down{named}`",
        enter=f"{inside}env SLURM_CONF={slurm.environment['SLURM_CONF']}",
    )  # fmt: skip


def down(name: str) -> int:
    """End the keeper, and with it all that it started."""
    told = _living(STATE / f"{name}.json")
    if told is None:
        print(f"no Slurm named {name} is up")
        return 0
    keeper = psutil.Process(told["pid"])
    keeper.terminate()
    try:
        keeper.wait(_END_S)
    except psutil.TimeoutExpired:
        print(f"process {told['pid']} did not end within {_END_S:g} s; see {STATE / name}.log", file=sys.stderr)
        return FAILED
    return 0


def _living(state: Path) -> dict[str, Any] | None:
    """What a keeper wrote that still runs."""
    try:
        told: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
        return told if psutil.Process(told["pid"]).create_time() == told["began_at"] else None
    except (OSError, psutil.NoSuchProcess):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
