"""A broker's writing in a process of its own, to be killed, starved and shut out: ``python -m ... ROLE PATH``."""

from __future__ import annotations

import asyncio
import os
import resource
import sys

from broker.log.sqlite import SqliteLog
from broker.model.errors import LogError
from broker.model.ports import StepRecord
from tests.support.builders import replica, step_record

REPLICAS = 5


def marked_step(number: int, epoch: int) -> StepRecord:
    """A step in which every replica says the same number: a torn one would show."""
    changes = {("replica", str(key)): replica(str(key), at=float(number)) for key in range(REPLICAS)}
    return step_record(number, epoch=epoch, changes=changes)


async def write_until_killed(path: str) -> None:
    """Says each step's number once it is committed; checkpoints and trims as it goes."""
    log = SqliteLog(path)
    epoch = (await log.acquire_leadership("worker")).number
    number = (await log.load()).number
    while True:
        number += 1
        await asyncio.gather(log.commit(marked_step(number, epoch)), log.append("requests", [number]))
        print(number, flush=True)
        if number % 10 == 0:
            await log.checkpoint(await log.load())
        if number % 25 == 0:
            await log.trim(marked_step(number - 20, epoch).now)


async def write_until_full_and_on(path: str) -> None:
    """Runs into a file size limit, lets go of it, and goes on with the step that failed."""
    log = SqliteLog(path)
    epoch = (await log.acquire_leadership("worker")).number
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    number = 1
    try:
        while True:
            await log.commit(marked_step(number, epoch))
            number += 1
    except LogError as error:
        print(type(error).__name__, number, error, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for later in range(number, number + 50):
        await log.commit(marked_step(later, epoch))
    print("went on to", number + 49, flush=True)
    await log.close()


async def lead_without_rights(path: str) -> None:
    """Tries to lead as a user who may not write, and says how that was refused."""
    await asyncio.to_thread(os.getpid)  # what Python loads late must be loaded before the rights are gone
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        await SqliteLog(path).acquire_leadership("worker")
    except LogError as error:
        print(type(error).__name__, error, flush=True)


ROLES = {"write": write_until_killed, "fill": write_until_full_and_on, "intrude": lead_without_rights}

if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]](sys.argv[2]))
