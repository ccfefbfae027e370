"""The leader is paused with a start or a stop in its hands, and let go on when another one leads."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from cli.output import Exit
from tests.faults.cluster import load
from tests.faults.conftest import Note
from tests.faults.kafka.cluster import kafka_cluster
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually

PAUSE_S = 30.0


@pytest.mark.faults
@pytest.mark.timeout(180)
@pytest.mark.parametrize("point", ["before_launch", "before_stop"])
async def test_paused_for_half_a_minute_it_drops_the_effect_in_its_hands_and_ends(
    point: str, kafka: RealKafka, tmp_path: Path, note: Note
) -> None:
    await deposed(kafka, tmp_path, point, PAUSE_S, note)


@pytest.mark.integration
@pytest.mark.slow
async def test_paused_until_another_leads_it_drops_the_start_in_its_hands_and_ends(
    kafka: RealKafka, tmp_path: Path, note: Note
) -> None:
    await deposed(kafka, tmp_path, "before_launch", 0.0, note)


async def deposed(kafka: RealKafka, folder: Path, point: str, at_least_s: float, note: Note) -> None:
    """The successor is held still when the first one goes on, so that whatever is done then, the first one did."""
    before, wanted, armed = (1, 2, f"{point}:2:pause") if point == "before_launch" else (2, 1, f"{point}:1:pause")
    async with kafka_cluster(kafka, folder, armed, "") as running, load(running) as streams:
        paused, successor = running.leader_and_next()
        if before == 2:
            await running.scale(2)
            await running.settled(2)
        with contextlib.suppress(httpx.TransportError):  # the answer may come before the pause
            await running.scale(wanted)
        state = psutil.Process(paused.pid)
        await eventually(lambda: state.status() == psutil.STATUS_STOPPED, f"the leader is paused at {point}")
        processes = running.processes()
        await asyncio.sleep(at_least_s)
        await eventually(lambda: running.logged("pool_in_use"), "the other one leads, and waits for the pool")

        successor.send_signal(signal.SIGSTOP)
        paused.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(paused.wait, 30) == Exit.REFUSED
        assert running.processes() == processes, "the paused one carried out what it had in its hands"
        successor.send_signal(signal.SIGCONT)

        await running.start_broker()
        assert (await running.model())["target"] == wanted
        await running.settled(wanted)
        await running.no_orphan_no_double()
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()
    (words,) = [line for line in running.broker_log().splitlines() if f"taken over by pid {successor.pid}" in line]
    note(words)
