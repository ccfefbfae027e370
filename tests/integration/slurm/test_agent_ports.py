"""Ports on a node that others use too: taken without a race, and confirmed by whose socket listens."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from actuators.slurm.agent import AgentError, bound, candidates, ephemeral_ports, strangers_on
from broker.model.agents import AgentPhase, EndCause
from tests.support.agent_world import EMULATOR, ENDPOINT_KEY, agent, get, served_broker
from tests.support.ports import free_port, free_ports, held
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("shared", [False, True], ids=["held alone", "held with SO_REUSEPORT"])
def test_pitfall_1_a_port_that_another_listens_on_is_not_taken_even_if_it_would_be_shared(shared: bool) -> None:
    first, last = free_ports(2)
    with held(first, shared=shared), bound("127.0.0.1", [first, last]) as ours:
        assert ours.getsockname()[1] == last


def test_pitfall_1_one_who_shares_a_port_later_is_seen_as_a_stranger_on_it() -> None:
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        port = ours.getsockname()[1]
        assert not strangers_on(port, [os.getpid()])
        assert strangers_on(port, [])


def test_pitfall_2_ports_are_out_of_the_range_that_the_kernel_gives_out() -> None:
    low, high = ephemeral_ports()
    tried = candidates((low - 5, low + 5), "chat-0-g1", (low, high))
    assert sorted(tried) == list(range(low - 5, low))
    assert candidates((low, low + 5), "chat-0-g1", (low, high)) == []


def test_pitfall_2_each_replica_begins_elsewhere() -> None:
    ports, ephemeral = (20_000, 29_999), (32_768, 60_999)
    firsts = {candidates(ports, f"chat-{ordinal}-g1/0", ephemeral)[0] for ordinal in range(50)}
    assert len(firsts) > 45
    assert sorted(candidates(ports, "chat-0-g1/0", ephemeral)) == list(range(20_000, 30_000))


def test_no_free_port_is_told_in_words() -> None:
    first = free_port()
    with held(first), pytest.raises(AgentError, match=r"no port to listen on at 127\.0\.0\.1 .*in use.*job\.ports"):
        bound("127.0.0.1", [first])


async def test_a_port_that_is_taken_is_passed_over_by_the_whole_agent(tmp_path: Path) -> None:
    first, *_, last = free_ports(8)
    async with served_broker() as broker:
        with ExitStack() as others:
            for port in range(first, first + 5):
                others.enter_context(held(port, shared=True))
            with agent(broker.url, tmp_path, ports=[first, last]):
                ready = await broker.hears_phase(AgentPhase.READY)
                assert urlsplit(ready.url or "").port in range(first + 5, last + 1)
                assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200


LATE_ONCE = """
import os, sys, time
port, marker, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
try:
    open(marker, "x").close()
except FileExistsError:
    os.execvp(command[0], command)
open(marker + ".port", "w").write(str(port))
os.rename(marker + ".port", marker)
while not os.path.exists(marker + ".held"):
    time.sleep(0.01)
"""
FINDS_IT_TAKEN = LATE_ONCE + "sys.exit(1)"
SHARES = (
    LATE_ONCE
    + """
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", port))
s.listen()
time.sleep(30)
"""
)
"""Older vLLM sets SO_REUSEPORT: two engines on one port answered each other's requests, without any error."""


@pytest.mark.parametrize(
    "first_engine",
    [
        pytest.param(SHARES, id="pitfall 1: it shares its port with another process"),
        pytest.param(FINDS_IT_TAKEN, id="pitfall 2: its port was taken between"),
    ],
)
async def test_an_engine_that_is_not_alone_on_its_port_is_started_on_another(tmp_path: Path, first_engine: str) -> None:
    program, marker = tmp_path / "first.py", tmp_path / "marker"
    program.write_text(first_engine)
    command = [EMULATOR[0], str(program), "{port}", str(marker), *EMULATOR]
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, command) as replica:
            await eventually(lambda: marker.exists() and marker.read_text(), "the first engine has its port")
            with held(int(marker.read_text()), shared=True):
                marker.with_name("marker.held").touch()
                ready = await broker.hears_phase(AgentPhase.READY)
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
            assert "was taken by another process; another one is tried" in replica.log


async def test_a_node_without_a_free_port_is_told_as_the_end(tmp_path: Path) -> None:
    first = free_port()
    async with served_broker() as broker:
        with held(first), agent(broker.url, tmp_path, ports=[first, first]) as replica:
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert ended.end.cause is EndCause.NOT_STARTED
            assert await replica.ended() == 1
