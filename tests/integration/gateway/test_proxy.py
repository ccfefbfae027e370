"""One request's way through the gateway: what passes, what is tried again, and what must never look finished."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from broker.model.replica import ReplicaPhase
from gateway.tally import Outcome
from tests.integration.gateway.site import QUICK, Site
from tests.support.fake_engine import Way
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

DONE = "[DONE]"


async def test_a_stream_passes_byte_for_byte(site: Site) -> None:
    await site.start()
    site.engines[0].usage = True
    answer = await site.ask()
    async with site.users.post(
        site.engines[0].url + "/v1/chat/completions",
        data=site.engines[0].received[0].body,
        headers={"Authorization": f"Bearer {site.engines[0].key}"},
    ) as direct:
        assert answer.body == await direct.read()
    assert (answer.status, answer.broken, answer.events[-1]) == (200, False, DONE)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"


async def test_tokens_arrive_while_the_stream_goes_on(site: Site) -> None:
    await site.start()
    site.engines[0].may_finish.clear()
    body = json.dumps({"model": "chat", "stream": True})
    async with site.users.post(site.url + "/v1/completions", data=body) as response:
        assert b'"content":"0 "' in await response.content.readany()
        site.engines[0].may_finish.set()
        assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_the_request_reaches_the_engine_as_it_was_sent(site: Site, path: str) -> None:
    await site.start(engines=0)
    engine = await site.add_engine(0, publish=False)
    site.broker.publish(engine.record(capabilities=("chat", "completions", "embeddings")))
    body = b'{ "model":"chat",\n "odd":  [1e3, "\\u00e9"] }'
    answer = await site.post(path, body, {"X-Request-Id": "abc", "Cookie": "secret=1"})
    received = engine.received[0]
    assert (answer.status, received.path, received.body) == (200, path, body)
    assert received.headers["X-Request-Id"] == answer.headers["X-Request-Id"] == "abc"
    assert "Cookie" not in received.headers


async def test_an_answer_that_is_no_stream_passes_whole(site: Site) -> None:
    await site.start()
    answer = await site.ask(stream=False)
    assert json.loads(answer.body)["choices"][0]["finish_reason"] == "stop"


async def test_a_large_answer_passes_whole(site: Site) -> None:
    await site.start()
    site.engines[0].way = Way.BIG_BODY
    answer = await site.ask(stream=False)
    assert (answer.broken, len(answer.body)) == (False, 2 * 1024 * 1024)


async def test_the_next_request_uses_the_same_connection(site: Site) -> None:
    await site.start()
    for _ in range(3):
        assert (await site.ask()).events[-1] == DONE
    assert len(site.engines[0].peers) == 1


async def test_requests_spread_over_the_least_loaded_endpoints(site: Site) -> None:
    await site.start(engines=3)
    for engine in site.engines:
        engine.may_finish.clear()
    asked = [asyncio.create_task(site.ask()) for _ in range(6)]
    await eventually(lambda: sum(len(engine.received) for engine in site.engines) == 6)
    assert [len(engine.received) for engine in site.engines] == [2, 2, 2]
    for engine in site.engines:
        engine.may_finish.set()
    assert all(answer.events[-1] == DONE for answer in await asyncio.gather(*asked))


@pytest.mark.parametrize("way", [Way.STATUS, Way.DROP, Way.DROP_AFTER_HEADER])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_failure_before_the_first_byte_is_tried_on_another_endpoint(site: Site, way: Way, stream: bool) -> None:
    await site.start(engines=2)
    site.engines[0].way = way
    answers = [await site.ask(stream=stream) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert not any(answer.broken for answer in answers)
    assert site.gateway.proxy.retries >= (1 if stream or way is not Way.DROP_AFTER_HEADER else 0)


async def test_an_endpoint_that_refuses_connections_is_left_out_at_once(site: Site) -> None:
    await site.start(engines=2)
    await site.engines[0].stop()
    answers = [await site.ask() for _ in range(4)]
    assert all(answer.events[-1] == DONE for answer in answers)
    assert site.gateway.proxy.retries == 1
    assert [record.endpoint_id for record in site.gateway.table.unhealthy()] == ["chat-0-g1"]


async def test_an_endpoint_that_answers_again_is_chosen_again(site: Site) -> None:
    await site.start(limits=replace(QUICK, hold_s=8.0))
    await site.engines[0].stop()
    asked = asyncio.create_task(site.ask())
    await eventually(site.gateway.table.unhealthy)
    await site.engines[0].start()
    assert (await asked).events[-1] == DONE


async def test_attempts_are_bounded(site: Site) -> None:
    await site.start(engines=5)
    for engine in site.engines:
        engine.way = Way.STATUS
    answer = await site.ask()
    assert (answer.status, sum(len(engine.received) for engine in site.engines)) == (500, 3)
    assert answer.error["message"] == "engine is shutting down"


@pytest.mark.parametrize(
    ("status", "body", "seen", "message"),
    [
        pytest.param(500, b'{"error":{"message":"m"}}', 500, "m", id="openai"),
        pytest.param(500, b'{"object":"error","message":"m"}', 500, "m", id="older vllm"),
        pytest.param(503, b"<html>", 503, "The replica answered 503.", id="html"),
        pytest.param(401, b"{}", 502, "The replica refused the gateway's key.", id="wrong key"),
    ],
)
async def test_an_engines_error_becomes_one_of_openai(
    site: Site, status: int, body: bytes, seen: int, message: str
) -> None:
    await site.start()
    site.engines[0].way, site.engines[0].status, site.engines[0].error_body = Way.STATUS, status, body
    answer = await site.ask()
    assert (answer.status, answer.error["message"], answer.error["type"]) == (seen, message, "upstream_error")
    assert ("Retry-After" in answer.headers) is (status == 503)


async def test_a_bad_request_is_not_tried_again(site: Site) -> None:
    await site.start(engines=2)
    for engine in site.engines:
        engine.way, engine.status = Way.STATUS, 400
    answer = await site.ask()
    assert (answer.status, sum(len(engine.received) for engine in site.engines)) == (400, 1)


async def test_a_stream_that_breaks_off_never_looks_finished(site: Site) -> None:
    await site.start(engines=2)
    for engine in site.engines:
        engine.way = Way.DROP_MIDWAY
    answer = await site.ask()
    assert answer.broken
    assert DONE not in answer.events
    assert json.loads(answer.events[-1])["error"]["code"] == "upstream_cut"
    assert sum(len(engine.received) for engine in site.engines) == 1, "nothing is repeated after the first byte"


@pytest.mark.parametrize("way", [Way.NO_DONE, Way.ABORT, Way.ERROR_EVENT])
async def test_a_stream_that_its_engine_ends_wrongly_counts_as_cut(site: Site, way: Way) -> None:
    await site.start()
    site.engines[0].way = way
    answer = await site.ask()
    assert answer.broken
    assert DONE not in answer.events
    assert "error" in answer.events[-1]
    await eventually(lambda: sum(summary.failed for summary in site.broker.summaries()) == 1)


async def test_a_cut_stream_is_reset_for_clients_of_http_1_0(site: Site) -> None:
    await site.start()
    site.engines[0].way = Way.DROP_MIDWAY
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    body = b'{"model":"chat","stream":true}'
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_stream_for_clients_of_http_1_0_passes_without_chunks(site: Site) -> None:
    await site.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    body = b'{"model":"chat","stream":true}'
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert received.partition(b"\r\n\r\n")[2].startswith(b"data: {")
    assert received.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("way", [Way.DROP_MIDWAY, Way.ABORT])
async def test_a_whole_answer_that_breaks_becomes_an_error(site: Site, way: Way) -> None:
    await site.start()
    site.engines[0].way = way
    answer = await site.ask(stream=False)
    assert (answer.status, answer.error["code"]) == (502, "upstream_cut")


async def test_a_large_answer_that_breaks_is_truncated_visibly(site: Site) -> None:
    await site.start()
    site.engines[0].way = Way.BIG_BODY_CUT
    assert (await site.ask(stream=False)).broken


async def test_an_engine_that_stays_silent_ends_in_a_time_out(site: Site) -> None:
    await site.start(limits=replace(QUICK, first_byte_s=0.2))
    site.engines[0].way = Way.HANG
    assert (await site.ask()).status == 504
    await eventually(lambda: site.engines[0].received[0].disconnected.is_set())


async def test_a_stream_that_stops_moving_is_cut(site: Site) -> None:
    await site.start(limits=replace(QUICK, idle_s=0.2))
    site.engines[0].way = Way.HANG_MIDWAY
    answer = await site.ask()
    assert answer.broken
    assert "nothing moved" in answer.events[-1]
    await eventually(lambda: site.engines[0].received[0].disconnected.is_set())


@pytest.mark.parametrize("way", [Way.HANG, Way.HANG_MIDWAY])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_user_who_leaves_ends_the_engines_work_at_once(site: Site, way: Way, stream: bool) -> None:
    await site.start()
    site.engines[0].way = way
    site.engines[0].may_finish.clear()
    asked = asyncio.create_task(site.ask(stream=stream))
    await eventually(lambda: site.engines[0].received)
    await asyncio.sleep(0.05)
    asked.cancel()
    await eventually(lambda: site.engines[0].received[0].disconnected.is_set())
    await eventually(lambda: not site.gateway.table.in_flight())
    assert site.gateway.tallies.of("chat").ended[Outcome.ABANDONED] == 1


async def test_a_slow_user_slows_the_engine_and_loses_nothing(site: Site) -> None:
    await site.start()
    site.engines[0].tokens, site.engines[0].padding = 400, 100_000
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port, limit=2**16)
    body = b'{"model":"chat","stream":true}'
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await reader.readexactly(1000)
    await asyncio.sleep(0.3)
    assert site.engines[0].written < 400, "the engine waits for the user"
    rest = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert rest.count(b"data: {") == 399, "the first was in the part read before"
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_request_is_held_until_an_endpoint_appears(site: Site) -> None:
    await site.start(engines=0, models=("chat",), limits=replace(QUICK, hold_s=8.0))
    asked = asyncio.create_task(site.ask())
    await eventually(lambda: any(summary.held and summary.waiting for summary in site.broker.summaries()))
    await site.add_engine(0)
    assert (await asked).events[-1] == DONE


async def test_a_request_that_nobody_takes_is_told_to_come_again(site: Site) -> None:
    await site.start()
    site.broker.move("chat-0-g1", ReplicaPhase.DRAINING)
    await eventually(lambda: site.gateway.table.applied_revision == 2)
    answer = await site.ask()
    assert (answer.status, answer.error["code"], answer.headers["Retry-After"]) == (503, "no_ready_replica", "5")
    await eventually(lambda: sum(summary.rejected for summary in site.broker.summaries()) == 1)


async def test_an_engines_error_is_not_held_against_the_user_for_long(site: Site) -> None:
    await site.start(limits=replace(QUICK, hold_s=60.0, retry_s=0.1))
    site.engines[0].way = Way.STATUS
    assert (await site.ask()).status == 500


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"[" * 100_000, "identity"), (b"no gzip", "gzip")], ids=["nested too deeply", "no gzip"]
)
async def test_a_body_that_cannot_be_read_is_the_users_mistake(site: Site, body: bytes, encoding: str) -> None:
    await site.start()
    answer = await site.post("/v1/completions", body, {"Content-Encoding": encoding})
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/v1/completions", b'{"model":"nobody"}', 404, id="unknown model"),
        pytest.param("/v1/completions", b'{"model":"' + b"x" * 900 + b'"}', 404, id="unknown model of any length"),
        pytest.param("/v1/completions", b"{", 400, id="no json"),
        pytest.param("/v1/completions", b"[]", 400, id="no object"),
        pytest.param("/v1/completions", b'{"model":7}', 400, id="no model name"),
        pytest.param("/v1/completions", b"\xff", 400, id="no text"),
        pytest.param("/v1/embeddings", b'{"model":"chat"}', 400, id="not what the model does"),
        pytest.param("/v1/nothing", b"{}", 404, id="unknown path"),
        pytest.param("/v1/models", b"{}", 405, id="wrong method"),
        pytest.param("/v1/completions", b"x" * 2000, 413, id="too large"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_openais_form(
    site: Site, path: str, body: bytes, status: int
) -> None:
    await site.start(limits=replace(QUICK, body_bytes=1000))
    answer = await site.post(path, body)
    assert (answer.status, answer.error["type"]) == (status, "invalid_request_error")
    assert 0 < len(answer.error["message"]) < 200


async def test_summaries_tell_what_users_saw(site: Site) -> None:
    await site.start()
    site.engines[0].usage, site.engines[0].pause_s = True, 0.02
    await site.ask()
    await site.ask(stream=False)
    await eventually(lambda: sum(summary.finished for summary in site.broker.summaries()) == 2)
    summaries = site.broker.summaries()
    assert sum(summary.arrived for summary in summaries) == 2
    assert sum(summary.time_to_first_token.count for summary in summaries) == 1, "known of streams only"
    assert sum(summary.inter_token.count for summary in summaries) >= 3
    assert sum(summary.prompt_tokens.count for summary in summaries) == 2
    output = [summary.output_tokens.quantile(1.0) for summary in summaries if summary.output_tokens.count]
    assert all(tokens == pytest.approx(5, rel=0.05) for tokens in output)


async def test_a_streams_wait_for_its_first_token_is_the_queue_age(site: Site) -> None:
    await site.start()
    site.engines[0].way = Way.HANG
    asked = asyncio.create_task(site.ask())
    await eventually(lambda: any(summary.oldest_waiting_since for summary in site.broker.summaries()))
    summary = site.broker.summaries()[-1]
    assert (summary.waiting, summary.in_flight, summary.held, summary.queue_age.count) == (1, 1, 0, 1)
    asked.cancel()


async def test_a_long_answer_that_is_no_stream_does_not_look_like_a_queue(site: Site) -> None:
    await site.start()
    site.engines[0].may_finish.clear()
    asked = asyncio.create_task(site.ask(stream=False))
    await eventually(lambda: any(summary.in_flight for summary in site.broker.summaries()))
    assert [summary.waiting for summary in site.broker.summaries() if summary.in_flight] == [0]
    site.engines[0].may_finish.set()
    assert (await asked).status == 200


async def test_models_are_listed_from_the_table(site: Site) -> None:
    await site.start(models=("later",))
    listed = json.loads((await site.get("/v1/models")).body)
    assert [model["id"] for model in listed["data"]] == ["chat", "later"]
