"""The node agent's life as a real process: a real engine's stand-in below it, a real broker's API above it."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from actuators.slurm.agent import Engine, descendants, shared_memory, shared_memory_of
from broker.model.agents import AgentOrder, AgentPhase, DrainCause, EndCause
from broker.model.starts import StartPlace
from tests.support.agent_world import (
    ACTION,
    EMULATOR,
    ENDPOINT_KEY,
    METRICS_KEY,
    TOKEN,
    agent,
    command_line,
    environment_of,
    get,
    served_broker,
    there,
)
from tests.support.shared_data import REPOSITORY
from tests.support.waiting import eventually
from tests.support.weights import write_weights

pytestmark = pytest.mark.integration


async def test_a_replica_registers_loads_serves_and_leaves_when_it_is_told(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            loading = await broker.hears(lambda report: report.url, "it tells where it will be")
            assert loading.phase in (AgentPhase.STARTING, AgentPhase.LOADING)
            ready = await broker.hears_phase(AgentPhase.READY)
            assert (ready.node, ready.job_id, ready.replica_id, ready.in_flight) == ("n1", 4711, "chat-0-g1", 0)
            assert ready.url is not None
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
            sequence = ready.sequence
            await broker.hears(lambda report: report.sequence > sequence + 1, "it goes on reporting")
            broker.world.agents.tell(ACTION, AgentOrder.STOP)
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, ended.end.exit_code, ended.url) == (EndCause.STOPPED, 0, None)
            assert await replica.ended() == 0


async def test_it_tells_what_kind_of_node_it_is_and_whether_that_has_the_weights(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights" / "model.safetensors")
    command = ("env", f"--chdir={weights.parent}", *EMULATOR)
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, command, gpu_type="h100") as replica:
            loading = await broker.hears_phase(AgentPhase.LOADING)
            assert loading.start_place == StartPlace("gpu:h100", weights_cached=True)
            assert "100% of the weights are in this node's memory" in replica.log


async def test_weights_that_cannot_be_looked_at_count_as_not_there_and_stop_nothing(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").symlink_to(tmp_path / "gone")
    command = ("env", f"--chdir={weights}", *EMULATOR)
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, command, environment={"SLURM_JOB_PARTITION": "gpu"}) as replica:
            ready = await broker.hears_phase(AgentPhase.READY)
            assert ready.start_place == StartPlace("gpu", weights_cached=False)
            assert "it cannot be told how much of the weights is in this node's memory" in replica.log


async def test_with_the_broker_away_it_serves_on_and_is_heard_again(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            ready = await broker.hears_phase(AgentPhase.READY)
            await broker.go()
            await eventually(lambda: "does not hear this agent" in replica.log, "it notices")
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
            await broker.come()
            again = await broker.hears_phase(AgentPhase.READY)
            assert again.boot_id == ready.boot_id
            assert replica.log.count("does not hear this agent") == 1


async def test_an_engine_loads_while_the_broker_is_away(tmp_path: Path) -> None:
    async with served_broker() as broker:
        await broker.go()
        with agent(broker.url, tmp_path) as replica:
            await eventually(lambda: "is ready at" in replica.log, "it is ready")
            await broker.come()
            ready = await broker.hears_phase(AgentPhase.READY)
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200


async def test_the_wall_times_warning_becomes_a_request_to_drain(tmp_path: Path) -> None:
    end_at = int(time.time()) + 600
    async with served_broker() as broker:
        with agent(
            broker.url, tmp_path, environment={"SLURM_JOB_END_TIME": str(end_at)}, notice_s=540, stop_grace_s=30
        ) as replica:
            await broker.hears_phase(AgentPhase.READY)
            replica.send(signal.SIGUSR1)
            draining = await broker.hears_phase(AgentPhase.DRAINING)
            assert draining.drain is not None
            assert draining.drain.cause is DrainCause.WALL_TIME
            assert draining.drain.by == pytest.approx(end_at - 30, abs=1.0), "Slurm's warning may come a minute early"
            assert draining.end_at == end_at
            assert (await get(f"{draining.url}/v1/models", ENDPOINT_KEY))[0] == 200, "it still serves"


async def test_at_the_deadline_it_ends_by_itself_though_the_broker_is_away(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, notice_s=3, stop_grace_s=2) as replica:
            await broker.hears_phase(AgentPhase.READY)
            replica.send(signal.SIGUSR1)
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, await replica.ended()) == (EndCause.EXPIRED, 0)


async def test_a_warning_long_before_the_wall_time_is_a_preemption(tmp_path: Path) -> None:
    """Pitfall 9: with GraceTime 0 no warning comes at all; where one comes, it comes long before the end of the job."""
    end_at = str(int(time.time()) + 86400)
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, environment={"SLURM_JOB_END_TIME": end_at}, notice_s=60) as replica:
            await broker.hears_phase(AgentPhase.READY)
            replica.send(signal.SIGUSR1)
            draining = await broker.hears_phase(AgentPhase.DRAINING)
            assert draining.drain is not None
            assert draining.drain.cause is DrainCause.PREEMPTION
            assert draining.drain.by <= time.time() + 60
            replica.send(signal.SIGTERM)
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert ended.end.cause is EndCause.PREEMPTED


async def test_sigterm_reaches_the_engine_which_finishes_what_it_has(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            ready = await broker.hears_phase(AgentPhase.READY)
            stream = asyncio.create_task(_whole_stream(f"{ready.url}/v1/completions", tokens=200))
            await broker.hears(lambda report: report.in_flight == 1, "the request is counted")
            replica.send(signal.SIGTERM)
            text = await stream
            assert text.endswith("data: [DONE]\n\n")
            assert text.count("data: {") >= 200
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, ended.end.exit_code) == (EndCause.STOPPED, 0)
            assert await replica.ended() == 0


async def _whole_stream(url: str, tokens: int) -> str:
    body = {"model": "chat", "prompt": "hello", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {ENDPOINT_KEY}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return await answer.text()


async def test_an_engine_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    deaf = ["--", *EMULATOR]
    command = ["bash", "-c", 'trap "" TERM; "$@" & while :; do wait; sleep 0.1; done', *deaf]
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, command, stop_grace_s=1) as replica:
            await broker.hears_phase(AgentPhase.READY)
            replica.send(signal.SIGTERM)
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, ended.end.exit_signal) == (EndCause.STOPPED, signal.SIGKILL)


async def test_an_engine_that_exits_unasked_has_crashed_though_its_code_is_0(tmp_path: Path) -> None:
    """vLLM's server exits 0 when its engine core is killed; and what registered must not outlive it (pitfall 20)."""
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, [*EMULATOR, "--fault", "crash-after=1s"]) as replica:
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, ended.end.exit_code) == (EndCause.CRASHED, 0)
            assert "nobody had asked" in ended.end.detail
            assert await replica.ended() == 1


async def test_an_engine_that_is_killed_has_crashed(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            await broker.hears_phase(AgentPhase.READY)
            os.kill(replica.engine_pid, signal.SIGKILL)
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, ended.end.exit_signal) == (EndCause.CRASHED, signal.SIGKILL)


async def test_an_engine_dies_with_its_agent(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            await broker.hears_phase(AgentPhase.READY)
            engine = replica.engine_pid
            replica.send(signal.SIGKILL)
            await replica.ended()
            await eventually(lambda: not command_line(engine), "the engine is gone")


GOES_INTO_THE_BACKGROUND = """
import os, sys, time
if os.fork():
    time.sleep(60)
os.setsid()
if os.fork():
    os._exit(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


async def test_an_engine_that_goes_into_the_background_is_not_left_behind(tmp_path: Path) -> None:
    async with served_broker() as broker:
        command = [sys.executable, "-c", GOES_INTO_THE_BACKGROUND, *EMULATOR]
        with agent(broker.url, tmp_path, command, stop_grace_s=1) as replica:
            await broker.hears_phase(AgentPhase.READY)
            (server,) = (pid for pid in descendants(replica.pid) if command_line(pid)[1:2] == ["-m"])
            broker.world.agents.tell(ACTION, AgentOrder.STOP)
            assert await replica.ended() == 0
            assert command_line(server) == []


IN_A_CONTAINER = """
import os, subprocess
from actuators.slurm.agent import descendants
assert os.getsid(0) == 0, "the session began outside"
with subprocess.Popen(["sleep", "60"]) as child:
    print(descendants(os.getpid()) == {child.pid})
    child.kill()
"""


def test_in_a_container_only_what_is_below_a_process_is_its_descendant() -> None:
    """There everybody's session may read 0, and the whole container was taken for the agent's own processes."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", IN_A_CONTAINER]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=30, cwd=REPOSITORY)
    if "unshare failed" in done.stderr:
        pytest.skip(f"no namespace of processes may be made here: {done.stderr.strip()}")
    assert done.stdout == "True\n", done.stderr


async def test_an_engine_that_stands_still_is_not_ended_for_it(tmp_path: Path) -> None:
    """Pitfall 20, the other way: one failed probe must not kill. Who is withdrawn is the broker's decision."""
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            await broker.hears_phase(AgentPhase.READY)
            os.kill(replica.engine_pid, signal.SIGSTOP)
            unhealthy = await broker.hears(lambda report: report.unhealthy_since, "it tells of it")
            assert unhealthy.phase is AgentPhase.READY
            os.kill(replica.engine_pid, signal.SIGCONT)
            await broker.hears(lambda report: report.unhealthy_since is None, "it tells that it is over")


@pytest.mark.parametrize(
    ("fault", "words"), [("wrong-model", "it serves not-chat, not chat"), ("wrong-key", "refuses the key")]
)
async def test_an_engine_that_is_not_what_was_asked_for_is_never_ready(fault: str, words: str, tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, [*EMULATOR, "--fault", fault]) as replica:
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert ended.end.cause is EndCause.UNHEALTHY
            assert words in ended.end.detail
            assert "is ready" not in replica.log


async def test_an_engine_that_never_loads_is_given_up_in_time(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, [*EMULATOR, "--fault", "never-loads"], load_timeout_s=4):
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert ended.end.cause is EndCause.UNHEALTHY
            assert "not ready within 4 s" in ended.end.detail


async def test_alarming_words_in_the_engines_output_end_nothing(tmp_path: Path) -> None:
    """Pitfall 21: scraping logs marks healthy loads as failed."""
    noisy = ["bash", "-c", 'echo "ERROR: CUDA out of memory. Traceback. Engine core died. FAILED"; exec "$@"', "--"]
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, [*noisy, *EMULATOR]) as replica:
            await broker.hears_phase(AgentPhase.READY)
            assert "Engine core died" in replica.log


async def test_a_wrong_token_is_refused_and_ends_the_job(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, token="wrong") as replica:
            assert await replica.ended() == 1
            assert "the broker refuses this job (401)" in replica.log
            assert broker.heard is None


async def test_a_job_that_no_broker_ever_hears_does_not_hold_its_gpus_for_ever(tmp_path: Path) -> None:
    async with served_broker() as broker:
        await broker.go()
        with agent(broker.url, tmp_path, load_timeout_s=10) as replica:
            assert await replica.ended() == 1
            assert "no broker has heard this agent for 10 s" in replica.log


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>", id="a page"),
        pytest.param(b"HTTP/1.1 307 Elsewhere\r\nLocation: http://login2/\r\nContent-Length: 0\r\n\r\n", id="a way on"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", id="yes without keys"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"[" * 100_000, id="nested without end"),
    ],
)
async def test_what_is_no_broker_does_not_count_as_one_that_has_heard(answer: bytes, tmp_path: Path) -> None:
    """A server that says yes to everything kept a job for its whole wall time."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answers, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with agent(f"http://127.0.0.1:{port}", tmp_path, load_timeout_s=10) as replica:
            assert await replica.ended() == 1
    assert re.search("no broker has heard this agent for 10 s: it answers [0-9]{3}: this is no answer", replica.log)
    assert "Traceback" not in replica.log


async def test_secrets_are_in_no_process_list_and_no_engine_has_the_token(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path) as replica:
            await broker.hears_phase(AgentPhase.READY)
            engine = replica.engine_pid
            for pid in (replica.pid, engine):
                line = " ".join(command_line(pid))
                assert not any(secret in line for secret in (TOKEN, ENDPOINT_KEY, METRICS_KEY))
                assert "VLLM_API_KEY" not in line
            inherited = environment_of(engine)
            assert "VLLM_API_KEY=" in inherited
            assert "TIDEGATE_" not in inherited
            assert not any(secret in inherited for secret in (TOKEN, ENDPOINT_KEY, METRICS_KEY))
            assert TOKEN not in replica.log


async def test_an_engine_may_listen_on_a_socket_that_nobody_else_can_open(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, socket_option="--uds") as replica:
            ready = await broker.hears_phase(AgentPhase.READY)
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
            command = command_line(replica.engine_pid)
            folder = os.path.dirname(command[command.index("--uds") + 1])
            assert os.stat(folder).st_mode & 0o777 == 0o700
            replica.send(signal.SIGTERM)
            await replica.ended()
            assert not there(folder)


async def test_without_a_front_the_engine_itself_asks_for_the_endpoints_key(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, front=False, address="127.0.0.1"):
            ready = await broker.hears_phase(AgentPhase.READY)
            assert ready.in_flight is None
            assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
            assert (await get(f"{ready.url}/v1/models", "wrong"))[0] == 401


@pytest.fixture
def in_shared_memory() -> Iterator[tuple[str, str]]:
    """Paths of an entry that is there and another's, and of one that is not there yet."""
    foreign, left = (f"/dev/shm/tidegate-test-{name}-{os.getpid()}" for name in ("foreign", "left"))
    Path(foreign).write_bytes(b"another's")
    yield foreign, left
    Path(foreign).unlink()
    Path(left).unlink(missing_ok=True)


async def test_what_the_engine_left_in_shared_memory_is_taken_away_and_nothing_else(
    tmp_path: Path, in_shared_memory: tuple[str, str]
) -> None:
    foreign, left = in_shared_memory
    holds_both = ["bash", "-c", f'exec 7>{left} 8<{foreign}; exec "$@"', "--"]
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, [*holds_both, *EMULATOR]) as replica:
            await broker.hears_phase(AgentPhase.READY)
            assert there(left)
            os.kill(replica.engine_pid, signal.SIGKILL)
            await broker.hears_phase(AgentPhase.ENDED)
    assert (there(left), there(foreign)) == (False, True)


async def test_strangers_who_only_connect_do_not_take_all_that_the_agent_may_open(tmp_path: Path) -> None:
    """With a shell's usual limit 1,024 idle connections made it deaf to the broker, and at its next look at the engine
    it stood still."""
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with served_broker() as broker, AsyncExitStack() as strangers:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
        with ExitStack() as back:
            back.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (few, most))
            replica = strangers.enter_context(agent(broker.url, tmp_path))
        ready = await broker.hears_phase(AgentPhase.READY)
        port = urlsplit(ready.url or "").port
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            strangers.callback(writer.close)
        await broker.hears(lambda report: report.sequence > ready.sequence + 1, "it goes on reporting")
        assert (await get(f"{ready.url}/v1/models", ENDPOINT_KEY))[0] == 200
        assert "Traceback" not in replica.log


async def test_an_engine_that_still_runs_is_ended_before_what_it_left_is_taken_away() -> None:
    engine = Engine(["sleep", "5"], dict(os.environ), set())
    await engine.clear()
    assert engine.code == -signal.SIGKILL


async def test_what_a_run_left_that_lost_its_port_is_taken_away_with_the_next(
    in_shared_memory: tuple[str, str],
) -> None:
    """It was there before the second run began, and was taken for another's."""
    foreign, left = in_shared_memory
    before = shared_memory()
    lost = Engine(["bash", "-c", f"exec 7>{left}"], dict(os.environ), before)
    await eventually(lambda: lost.code is not None, "it has ended before anyone looked at it")
    await lost.clear()
    engine = Engine(["bash", "-c", f"exec 7>{left} 8<{foreign}; sleep 60"], dict(os.environ), before)
    await eventually(lambda: left in {path for path, _ in shared_memory_of(engine.members())}, "it holds both")
    engine.sample()  # as it becomes ready
    await engine.clear()
    assert (there(left), there(foreign)) == (False, True)


async def test_what_cannot_be_executed_is_told_in_a_line(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, ["vllm-that-is-not-there", "serve"]) as replica:
            assert await replica.ended() == 1
            assert broker.heard is not None
            assert broker.heard.end is not None
            assert broker.heard.end.cause is EndCause.NOT_STARTED
            assert "vllm-that-is-not-there is not on this node's PATH" in replica.log
            assert "Traceback" not in replica.log
