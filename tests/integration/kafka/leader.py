"""A leader in a process of its own, to be paused and killed: ``python -m ... SERVERS PREFIX HOLDER SESSION_S``.

It stands by while another leads, then commits a step each 20 ms and says its number and whether it might act.
"""

from __future__ import annotations

import asyncio
import sys

from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.topics import Layout
from broker.log.kafka.writer import Terms
from broker.model.errors import LeadershipRefused
from tests.support.builders import step_record

SESSION_S = 2.0
TERMS = Terms(lease_s=SESSION_S, patience_s=5.0)


async def lead(servers: str, prefix: str, holder: str, session: str) -> None:
    log = KafkaLog(
        Connection((servers,)),
        Layout(prefix, partitions=2),
        terms=TERMS,
        session_s=float(session),
        stand_by=lambda leader: print("stands by", leader, flush=True),
    )
    epoch = (await log.acquire_leadership(holder)).number
    number = (await log.load()).number
    print("leads", epoch, flush=True)
    try:
        while True:
            number += 1
            print("might act" if log.may_act() else "must not act", flush=True)
            await log.commit(step_record(number, epoch=epoch))
            print("wrote", number, flush=True)
            await asyncio.sleep(0.02)
    except LeadershipRefused as error:
        print("deposed", log.may_act(), error, flush=True)
        await log.close()


if __name__ == "__main__":
    asyncio.run(lead(*sys.argv[1:]))
