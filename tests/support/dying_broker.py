"""A broker that is killed at a named point. Run as a module:

    python -m tests.support.dying_broker DIRECTORY CLUSTER POINT

It starts one replica, tells it to exit if POINT is one of a stop's, and kills itself when POINT is reached: the
actuator's checkpoints, or ``started``, when the start has returned.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.support.actuator_worlds import ENGINE, LocalWorld, launch_of, stop_of, until_listening


async def main(directory: str, cluster: str, point: str) -> None:
    def die_there(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    world = LocalWorld(Path(directory), cluster=cluster)
    world.actuator = world.make(die_there)
    launch = launch_of(cluster, engine=(*ENGINE, "--exit-s", "0.3"))
    await world.actuator.start(launch)
    die_there("started")
    await until_listening(world, launch.replica_id)
    await world.actuator.stop(stop_of(launch))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
