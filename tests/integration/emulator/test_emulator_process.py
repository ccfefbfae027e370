"""The emulator as clients and actuators meet it: a process with a port, signals and an exit code."""

from __future__ import annotations

import asyncio
import json
import operator
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.emulator_process import EmulatorProcess, emulator
from tests.support.waiting import until_answered

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
HELLO = [{"role": "user", "content": "hello you"}]


@pytest.fixture(scope="module")
def replica() -> Iterator[EmulatorProcess]:
    """One replica for all tests that leave it as it was."""
    with emulator("--load-time", "0", "--max-model-len", "4096") as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as opened:
        yield opened


async def post(session: aiohttp.ClientSession, url: str, body: Any, **options: Any) -> tuple[int, Any]:
    async with session.post(url, json=body, **options) as response:
        return response.status, await response.json()


async def get_text(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as response:
        assert response.status == 200
        return await response.text()


async def metrics(session: aiohttp.ClientSession, replica: EmulatorProcess, *names: str) -> list[float]:
    """The values of metrics on one page, each the sum over its series."""
    sums = dict.fromkeys(names, 0.0)
    for line in (await get_text(session, f"{replica.url}/metrics")).splitlines():
        name, _, value = line.replace("{", " ").partition(" ")
        if name in sums:
            sums[name] += float(value.rpartition(" ")[2])
    return list(sums.values())


async def until_load(
    session: aiohttp.ClientSession, replica: EmulatorProcess, *, running: float, waiting: float
) -> None:
    load = [running, waiting]
    await until_answered(lambda: metrics(session, replica, RUNNING, WAITING), load.__eq__, "the load is as wanted")


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """The data of a server-sent stream, [DONE] as it is."""
    found = []
    async for line in response.content:
        if line.startswith(b"data: "):
            data = line[6:].strip()
            found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return found


async def test_a_chat_stream_has_vllms_chunks_and_the_same_text_as_the_whole_answer(
    replica: EmulatorProcess, session: aiohttp.ClientSession
) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 4, "ignore_eos": True}
    async with session.post(
        replica.url + CHAT, json={**body, "stream": True, "stream_options": {"include_usage": True}}
    ) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        role, *tokens, used, done = await events(response)
    assert role["object"] == "chat.completion.chunk"
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None, None, None, "length"]
    assert ["stop_reason" in chunk["choices"][0] for chunk in tokens] == [False, False, False, True]
    assert used["choices"] == []
    assert used["usage"]["completion_tokens"] == 4
    assert used["usage"]["prompt_tokens"] == 3
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in (role, *tokens, used)}) == 1
    status, whole = await post(session, replica.url + CHAT, body)
    assert status == 200
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == "".join(
        chunk["choices"][0]["delta"]["content"] for chunk in tokens
    )
    assert whole["usage"] == used["usage"]


async def test_a_completion_stream_has_one_chunk_for_each_token(
    replica: EmulatorProcess, session: aiohttp.ClientSession
) -> None:
    body = {"prompt": [1, 2, 3], "max_tokens": 3, "stream": True}
    async with session.post(f"{replica.url}/v1/completions", json=body) as response:
        *tokens, done = await events(response)
    assert [chunk["object"] for chunk in tokens] == ["text_completion"] * 3
    assert all(chunk["choices"][0]["text"].startswith(" ") for chunk in tokens)
    assert (tokens[-1]["choices"][0]["finish_reason"], done) == ("length", "[DONE]")


async def test_the_other_paths_answer_as_vllms(replica: EmulatorProcess, session: aiohttp.ClientSession) -> None:
    models = json.loads(await get_text(session, f"{replica.url}/v1/models"))
    assert [(model["id"], model["max_model_len"]) for model in models["data"]] == [("chat", 4096)]
    assert json.loads(await get_text(session, f"{replica.url}/version")) == {"version": "0.32.0"}
    assert json.loads(await get_text(session, f"{replica.url}/load")) == {"server_load": 0}
    assert await get_text(session, f"{replica.url}/ping") == ""
    status, tokenized = await post(session, f"{replica.url}/tokenize", {"prompt": "abcdefgh"})
    assert (status, tokenized["count"]) == (200, 2)
    status, answer = await post(session, f"{replica.url}/invocations", {"messages": HELLO, "max_tokens": 1})
    assert (status, answer["object"]) == (200, "chat.completion")


async def test_errors_come_in_vllms_shape(replica: EmulatorProcess, session: aiohttp.ClientSession) -> None:
    status, answer = await post(session, replica.url + CHAT, {"model": "other", "messages": HELLO})
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (404, "NotFoundError", 404)
    status, answer = await post(session, f"{replica.url}/v1/completions", {"prompt": [1] * 5000})
    assert (status, answer["error"]["type"]) == (400, "BadRequestError")
    headers = {"Content-Type": "application/json"}
    half_a_character = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    for body in (b"{", half_a_character, b"[" * 100_000):
        async with session.post(replica.url + CHAT, data=body, headers=headers) as response:
            assert response.status == 400
            assert "not JSON" in (await response.json())["error"]["message"]
    async with session.post(replica.url + CHAT, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
        assert (response.status, (await response.json())["error"]["type"]) == (400, "Bad Request")
    async with session.get(f"{replica.url}/nothing-here") as response:
        assert (response.status, await response.json()) == (404, {"detail": "Not Found"})


async def test_a_disconnected_client_is_gone_from_running_and_counts_as_nothing(
    replica: EmulatorProcess, session: aiohttp.ClientSession
) -> None:
    finished_before = await metrics(session, replica, "vllm:request_success_total")
    response = await session.post(
        f"{replica.url}/v1/completions", json={"prompt": [1], "max_tokens": 4000, "ignore_eos": True, "stream": True}
    )
    await response.content.readline()
    assert await metrics(session, replica, RUNNING) == [1]
    response.close()
    await until_load(session, replica, running=0, waiting=0)
    assert await metrics(session, replica, "vllm:kv_cache_usage_perc") == [0]
    assert await metrics(session, replica, "vllm:request_success_total") == finished_before


async def test_the_metrics_follow_what_was_served(session: aiohttp.ClientSession) -> None:
    with emulator("--load-time", "0", "--max-num-seqs", "2", "--natural-length", "10") as replica:
        body = {"prompt": [1] * 20, "max_tokens": 30, "ignore_eos": True}
        requests = [asyncio.create_task(post(session, f"{replica.url}/v1/completions", body)) for _ in range(3)]
        await until_load(session, replica, running=2, waiting=1)
        by_reason, kv_use = await metrics(
            session, replica, "vllm:num_requests_waiting_by_reason", "vllm:kv_cache_usage_perc"
        )
        assert by_reason == 1
        assert 0 < kv_use < 1
        assert [status for status, _ in await asyncio.gather(*requests)] == [200] * 3
        expected = {
            "vllm:prompt_tokens_total": 60,
            "vllm:generation_tokens_total": 90,
            "vllm:request_success_total": 3,
            "vllm:time_to_first_token_seconds_count": 3,
            "vllm:inter_token_latency_seconds_count": 87,
            "vllm:e2e_request_latency_seconds_count": 3,
            "vllm:request_queue_time_seconds_count": 3,
            "vllm:iteration_tokens_total_sum": 150,
            RUNNING: 0,
            "http_requests_total": 3,
        }
        assert await metrics(session, replica, *expected) == list(expected.values())


async def test_the_key_guards_what_vllm_guards_and_no_more(session: aiohttp.ClientSession) -> None:
    with emulator("--load-time", "0", environment={"VLLM_API_KEY": "secret"}) as replica:
        body = {"messages": HELLO, "max_tokens": 1}
        assert await post(session, replica.url + CHAT, body) == (401, {"error": "Unauthorized"})
        wrong = {"Authorization": "Bearer wrong"}
        assert (await post(session, replica.url + CHAT, body, headers=wrong))[0] == 401
        right = {"Authorization": "Bearer secret"}
        assert (await post(session, replica.url + CHAT, body, headers=right))[0] == 200
        for path in ("/health", "/metrics", "/version"):
            await get_text(session, replica.url + path)
        assert (await post(session, f"{replica.url}/tokenize", {"prompt": "a"}))[0] == 200
        assert (await post(session, f"{replica.url}/invocations", body))[0] == 200


def test_connections_are_refused_until_the_model_is_loaded() -> None:
    with emulator("--load-time", "1s", wait=False) as replica:
        with socket.socket() as probe:
            assert probe.connect_ex((replica.host, replica.port)) != 0
        replica.wait_until_healthy()


def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = rf"ended with status 2\nerror: cannot bind 127.0.0.1:{port}: .*\n$"
        with pytest.raises(AssertionError, match=words), emulator("--port", port):
            pass


async def test_after_sigterm_what_runs_and_what_waits_finishes_and_what_is_new_gets_500(
    session: aiohttp.ClientSession,
) -> None:
    with emulator("--load-time", "0", "--max-num-seqs", "1", "--shutdown-timeout", "30") as replica:
        body = {"prompt": [1], "max_tokens": 20, "ignore_eos": True, "stream": True}
        responses = [asyncio.create_task(session.post(f"{replica.url}/v1/completions", json=body)) for _ in range(2)]
        await until_load(session, replica, running=1, waiting=1)
        replica.terminate()
        small = {"prompt": [1], "max_tokens": 1}
        await until_answered(
            lambda: post(session, f"{replica.url}/v1/completions", small), lambda answer: answer[0] == 500,
            "new requests get 500",
        )  # fmt: skip
        assert await get_text(session, f"{replica.url}/health") == ""
        for response in await asyncio.gather(*responses):
            *tokens, done = await events(response)
            assert (len(tokens), tokens[-1]["choices"][0]["finish_reason"], done) == (20, "length", "[DONE]")
        assert replica.wait_for_exit() == 0


async def test_without_a_shutdown_timeout_sigterm_aborts_what_runs(session: aiohttp.ClientSession) -> None:
    with emulator("--load-time", "0") as replica:
        body = {"prompt": [1], "max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with session.post(f"{replica.url}/v1/completions", json=body) as response:
            await response.content.readline()
            replica.terminate()
            *tokens, done = await events(response)
        assert (tokens[-1]["choices"][0]["finish_reason"], done) == ("abort", "[DONE]")
        assert replica.wait_for_exit() == 0


async def test_a_shutdown_timeout_too_short_closes_the_listener_and_lets_clients_hang(
    session: aiohttp.ClientSession,
) -> None:
    with emulator("--load-time", "0", "--shutdown-timeout", "0.3") as replica:
        body = {"prompt": [1], "max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with session.post(f"{replica.url}/v1/completions", json=body) as response:
            await response.content.readline()
            replica.terminate()
            await until_answered(lambda: asyncio.to_thread(replica.healthy), operator.not_, "the listener is closed")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await events(response)
            assert replica.process.poll() is None
        assert await asyncio.to_thread(replica.wait_for_exit) == 0  # the last client has left


async def test_a_replica_with_the_wrong_model_or_key_answers_but_not_for_us(session: aiohttp.ClientSession) -> None:
    with emulator("--load-time", "0", "--fault", "wrong-model") as replica:
        assert (await post(session, replica.url + CHAT, {"model": "chat", "messages": HELLO}))[0] == 404
        assert "not-chat" in await get_text(session, f"{replica.url}/v1/models")
    with emulator("--load-time", "0", "--fault", "wrong-key", environment={"VLLM_API_KEY": "secret"}) as replica:
        right = {"Authorization": "Bearer secret"}
        assert (await post(session, replica.url + CHAT, {"messages": HELLO}, headers=right))[0] == 401


def test_a_replica_that_never_loads_refuses_connections_and_dies_of_sigterm() -> None:
    with emulator("--load-time", "0", "--fault", "never-loads", wait=False) as replica:
        assert not replica.healthy()
        replica.terminate()
        assert replica.wait_for_exit() != 0


def test_a_replica_that_crashes_exits_with_0_as_vllm_does() -> None:
    with emulator("--load-time", "0", "--fault", "crash-after=0.2s") as replica:
        assert replica.wait_for_exit() == 0
        assert not replica.healthy()


async def test_metrics_can_be_garbage_or_giant(session: aiohttp.ClientSession) -> None:
    with emulator("--load-time", "0", "--fault", "garbage-metrics") as replica:
        async with session.get(f"{replica.url}/metrics") as response:
            assert b"\x00\x01\x02" in await response.read()
    with emulator("--load-time", "0", "--fault", "giant-metrics") as replica:
        async with session.get(f"{replica.url}/metrics") as response:
            assert len(await response.content.readexactly(2**22)) == 2**22


async def test_a_frozen_replica_is_healthy_and_gives_no_token(session: aiohttp.ClientSession) -> None:
    with emulator("--load-time", "0", "--fault", "freeze") as replica:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await post(session, replica.url + CHAT, {"messages": HELLO, "max_tokens": 1})
        assert await get_text(session, f"{replica.url}/health") == ""
        assert await metrics(session, replica, "vllm:generation_tokens_total") == [0]
