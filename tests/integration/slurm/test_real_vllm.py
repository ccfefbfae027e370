"""A real vLLM on CPU as the engine of a Slurm job: served, reached, drained (`make test-vllm`)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from cli.demo.load import LoadPlayer
from simulator.report.summary import Outcome
from tests.support import real_vllm
from tests.support.real_slurm import GPU_PARTITION, RealSlurm, why_not
from tests.support.slurm_stack import slurm_stack
from tests.support.waiting import eventually, until
from traces.schema import TraceRequest

MISSING = why_not() or real_vllm.why_not()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING is not None, reason=MISSING or "there is a vLLM"),
]

LOADED_WITHIN_S = 420.0
REQUESTS = [TraceRequest(0.0, 20, 300)] * 4


def policies(model: Path) -> str:
    """JSON is YAML."""
    served = ["serve", str(model), "--served-model-name", "{model}", "--host", "{host}", "--port", "{port}"]
    engine = {
        "command": [str(real_vllm.VLLM), *served, *real_vllm.OPTIONS],
        "environment": real_vllm.ENVIRONMENT | {"VLLM_CACHE_ROOT": str(model.parent / "cache")},
    }
    rule = {"name": "busy", "signal": "requests_waiting", "above": 100, "for": "1m", "change": 1}
    limits = {"min": 1, "max": 1, "drain_limit": "60s", "load_timeout": "10m", "stop_grace": "40s"}
    return json.dumps(
        {"models": {"chat": {"engine": engine, "policy": {"kind": "threshold", "rules": [rule]}} | limits}}
    )


async def played_while(leaves: Callable[[], object], gateway_url: str) -> LoadPlayer:
    """Streams, once all of which have begun the replica is told to leave."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        player = LoadPlayer(session, gateway_url, "chat")
        playing = asyncio.create_task(player.play(REQUESTS, time.time))
        await eventually(lambda: player.open_streams == len(REQUESTS), "all streams have begun", 60)
        leaves()
        await playing
        return player


@pytest.mark.timeout(900)
def test_a_real_vllm_in_a_job_serves_through_the_gateway_and_leaves_without_a_cut(tmp_path: Path) -> None:
    model = tmp_path / "model"
    real_vllm.write_model(model)
    with (
        RealSlurm(1, [GPU_PARTITION], gpus_per_node=1) as slurm,
        slurm_stack(slurm, tmp_path, f"vllm-{os.getpid()}", policies=policies(model)) as stack,
        stack.client() as client,
    ):

        def published() -> Any:
            return client.get("/v1/endpoints").json()["endpoints"]

        (endpoint,) = until(published, "vLLM has answered as itself", LOADED_WITHIN_S, by=stack.broker)
        assert httpx.post(f"{endpoint['url']}/invocations", json={}, trust_env=False).status_code == 401
        player = asyncio.run(
            played_while(lambda: (tmp_path / "policies.yaml").write_text("models: {}\n"), stack.gateway_url)
        )
        assert [outcome.status for outcome in player.outcomes] == [Outcome.FINISHED] * len(REQUESTS), player.problems
        until(lambda: not slurm.command("squeue", "-h", "-o", "%i").strip(), "its job is gone", 120)
        (replica,) = until(lambda: [each for each in stack.replicas(client, "chat") if each["phase"] == "gone"], "told")
        assert replica["in_flight_at_stop"] == 0
        (output,) = slurm.folder.glob("chat-0-g1-*.out")
        assert "exited with code 0" in output.read_text()
