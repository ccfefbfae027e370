"""What a gateway writes of each request that ended, and what the commands make of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.model.identity import endpoint_key
from broker.model.replica import EndpointRecord, ReplicaPhase, Tier
from gateway.settings import RequestLogSettings
from tests.integration.gateway.site import Site
from tests.support.command_line import ROOT, tidegate
from tests.support.emulator_process import emulator
from tests.support.fake_engine import SITE_SECRET, Way
from tests.support.waiting import eventually, until_answered

pytestmark = pytest.mark.integration

POLICIES = ROOT / "deploy" / "examples" / "policies.yaml"
PROMPT = "a secret of forty-four characters, all of it"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def asking(**more: Any) -> bytes:
    return json.dumps({"model": "chat", "messages": [{"role": "user", "content": PROMPT}], **more}).encode()


async def test_every_request_that_ended_is_a_line_without_its_text(site: Site, tmp_path: Path) -> None:
    path, keys = tmp_path / "requests.jsonl", tmp_path / "keys"
    keys.write_text(f"alice sha256:{hashlib.sha256(b'key-of-alice').hexdigest()}\n")
    await site.start(keys_file=keys, request_log=RequestLogSettings(path))
    mine = {"Authorization": "Bearer key-of-alice"}
    chat = "/v1/chat/completions"
    await site.post(chat, asking(), headers=mine | {"X-Session-Id": "session-17"})
    await site.post(chat, asking(stream=True), headers=mine)
    site.engines[0].way, site.engines[0].status = Way.STATUS, 400
    await site.post(chat, asking(), headers=mine)
    site.engines[0].way = Way.DROP_MIDWAY
    await site.post(chat, asking(stream=True), headers=mine)
    await site.post(chat, asking(), headers={"Authorization": "Bearer wrong"})
    await site.stop_gateway()
    whole, streamed, refused, cut = lines(path)
    assert (whole["prompt_tokens"], whole["output_tokens"], whole["status"]) == (11, 5, "finished")
    assert (streamed["prompt_tokens"], streamed["output_tokens"]) == (11, 5)
    assert ("prompt_estimated" in whole, streamed["prompt_estimated"]) == (False, True)
    assert (refused["output_tokens"], refused["status"]) == (0, "refused")
    assert (cut["output_tokens"], cut["status"]) == (0, "failed")
    assert whole["tenant"] == cut["tenant"]
    assert ("session" in whole, "session" in streamed) == (True, False)
    text = path.read_text()
    assert not any(secret in text for secret in ("alice", "session-17", "secret", "key-of"))


async def test_an_answer_that_its_user_leaves_counts_as_far_as_it_came(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    await site.start(request_log=RequestLogSettings(path))
    site.engines[0].may_finish.clear()
    async with site.users.post(site.url + "/v1/completions", data=b'{"model":"chat","stream":true}') as response:
        await response.content.readany()
        await eventually(lambda: site.engines[0].written == 2)
        response.close()
    await eventually(lambda: path.read_text())
    (row,) = lines(path)
    assert row["status"] == "abandoned"
    assert row["output_tokens"] <= 2
    assert "tenant" not in row, "nobody was asked who they are"


async def test_a_full_disk_stops_no_request_and_is_counted(site: Site) -> None:
    await site.start(request_log=RequestLogSettings(Path("/dev/full")))
    answers = [await site.ask() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3

    async def lost() -> int:
        text = (await site.get("/metrics")).body.decode()
        return int(text.split("\ntidegate_gateway_request_log_lost_total ")[1].split("\n")[0])

    await until_answered(lost, lambda count: count >= 3, "three lines are counted as lost")
    assert (await site.ask()).status == 200


async def ask_emulator(site: Site, requests: int) -> None:
    """So many requests through the gateway to an emulated replica, some 100 a second."""
    limit = asyncio.Semaphore(20)

    async def ask(number: int) -> None:
        await asyncio.sleep(0.01 * number)
        async with limit:
            headers = {"Content-Type": "application/json", "X-Session-Id": f"s{number // 4}"}
            answer = await site.post("/v1/chat/completions", asking(max_tokens=1 + number % 7), headers=headers)
            assert answer.status == 200, answer.body

    await asyncio.gather(*(ask(number) for number in range(requests)))


async def test_the_log_of_an_emulated_replica_can_be_looked_at_fitted_and_replayed(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    await site.start(engines=0, request_log=RequestLogSettings(path))
    engine = EndpointRecord("chat-0-g1", "chat", "", ReplicaPhase.READY, 1, Tier.BASELINE, 0, capabilities=("chat",))
    key = endpoint_key(SITE_SECRET, engine.endpoint_id, engine.generation)
    with emulator("--load-time", "0", environment={"VLLM_API_KEY": key}) as replica:
        site.broker.publish(replace(engine, url=replica.url))
        await eventually(lambda: site.gateway.table.applied_revision == site.broker.revision)
        await ask_emulator(site, 120)
    await site.stop_gateway()

    told = tidegate("trace", "info", path, "--json")
    assert told.exit_code == 0, told.output
    info = json.loads(told.stdout)
    assert (info["format"], info["rows"], info["failed"], info["has_sessions"]) == ("request log", 120, 0, True)
    assert (info["output"]["p50"], info["output"]["largest"]) == (4, 7)
    fitted = tidegate("trace", "fit", path, "--name", "ours", "--provenance", "a test")
    assert fitted.exit_code == 0, fitted.output
    assert json.loads(fitted.stdout)["requests"] == 120
    replayed = tidegate("simulate", "--trace", path, "--policies", POLICIES, "--json")
    assert replayed.exit_code == 0, replayed.output
    assert json.loads(replayed.stdout)["requests"]["finished"] == 120
