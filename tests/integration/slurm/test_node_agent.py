"""The node agent's life as a real process: a real engine's stand-in below it, a real broker's API above it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from broker.model.agents import AgentOrder, AgentPhase, DrainCause, EndCause
from tests.support.agent_world import (
    ACTION,
    EMULATOR,
    ENDPOINT_KEY,
    METRICS_KEY,
    TOKEN,
    agent,
    command_line,
    environment_of,
    eventually,
    get,
    served_broker,
    there,
)

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
            broker.url, tmp_path, environment={"SLURM_JOB_END_TIME": str(end_at)}, notice_s=590, stop_grace_s=30
        ) as replica:
            await broker.hears_phase(AgentPhase.READY)
            replica.send(signal.SIGUSR1)
            draining = await broker.hears_phase(AgentPhase.DRAINING)
            assert draining.drain is not None
            assert draining.drain.cause is DrainCause.WALL_TIME
            assert draining.drain.by <= end_at - 30
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
        with agent(broker.url, tmp_path, load_timeout_s=5) as replica:
            assert await replica.ended() == 1
            assert "no broker has heard this agent for 5 s" in replica.log


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


async def test_what_cannot_be_executed_is_told_in_a_line(tmp_path: Path) -> None:
    async with served_broker() as broker:
        with agent(broker.url, tmp_path, ["vllm-that-is-not-there", "serve"]) as replica:
            assert await replica.ended() == 1
            assert broker.heard is not None
            assert broker.heard.end is not None
            assert broker.heard.end.cause is EndCause.NOT_STARTED
            assert "vllm-that-is-not-there is not on this node's PATH" in replica.log
            assert "Traceback" not in replica.log
