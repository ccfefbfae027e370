"""The main job end to end, as a user meets it: serve, scale out by an order, drain back, explain, with the commands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.demo.stack import Stack
from tests.support.calm_model import POLICIES
from tests.support.command_line import tidegate
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLUSTER = f"live-stack-{os.getpid()}"
SITE = f"""\
cluster: {CLUSTER}
pools: {{local: {{kind: local, gpus: 2, state_dir: replicas, log_dir: log}}}}
log: {{kind: sqlite, path: tidegate.sqlite}}
api: {{port: 0}}
outputs: {{endpoints_file: endpoints.json}}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    root = str(Path(__file__).parents[2])
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(folder, SITE, POLICIES, ("chat",), CLUSTER, environment={"PYTHONPATH": root})
    try:
        stack.write_files()
        stack.start_broker()
        stack.start_gateway()
        yield stack
    finally:
        stack.stop()


class Commands:
    """The commands against one stack, as in a shell of its operator."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __call__(self, *words: str) -> str:
        environment = self._stack.secrets | {"TIDEGATE_BROKER": self._stack.broker_url}
        result = tidegate(*words, environment=environment)
        assert result.exit_code == 0, (words, result.output)
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


def ask(stack: Stack) -> dict[str, Any]:
    body = {"model": "chat", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(f"{stack.gateway_url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_live_stack_serves_scales_drains_and_explains(stack: Stack) -> None:
    command = Commands(stack)
    with stack.client() as client:

        def ready() -> list[str]:
            found = client.get("/v1/endpoints").json()["endpoints"]
            return [endpoint["endpoint_id"] for endpoint in found if endpoint["phase"] == "ready"]

        def in_file() -> set[str]:
            found = json.loads((stack.folder / "endpoints.json").read_text())["endpoints"]
            return {endpoint["endpoint_id"] for endpoint in found}

        # A request is held until the first replica has loaded, then answered.
        answer = ask(stack)
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
        assert ready() == ["chat-0-g1"]
        until(lambda: in_file() == {"chat-0-g1"}, "the file names the endpoint")

        # Out, by an order.
        taken = command.json("scale", "chat", "2", "--for", "10m", "--because", "a launch event", "--author", "ada")
        assert taken["target"] == 2
        until(lambda: len(ready()) == 2, "two replicas serve")
        until(lambda: len(in_file()) == 2, "the file names both")
        targets = client.get("/v1/prometheus/targets").json()
        assert {group["labels"]["replica"] for group in targets} == set(ready())
        page = httpx.get(f"http://{targets[0]['targets'][0]}/metrics", trust_env=False)
        assert "vllm:num_requests_running" in page.text
        explained = command("explain", "chat")
        assert "ada: a launch event" in explained
        assert {replica["phase"] for replica in command.json("replicas")["replicas"]} == {"ready"}
        assert "chat-0-g1" in command("endpoints")
        assert "1..3" in command("models")
        assert "emulator_listening" in command(
            "replicas", "logs", "chat-0-g1", "--site", str(stack.folder / "site.yaml")
        )
        ask(stack)

        # And back: the order is taken back, the policy wants one, the other is drained and gone without a cut.
        assert "the policy decides again" in command("hold", "chat", "--release")
        until(lambda: len(ready()) == 1, "one replica is withdrawn")
        ask(stack)
        gone = until(
            lambda: [r for r in stack.replicas(client, "chat") if r["phase"] in ("gone", "failed")], "it has ended"
        )
        assert [(replica["phase"], replica["in_flight_at_stop"]) for replica in gone] == [("gone", 0)]
        until(lambda: in_file() == set(ready()), "the file follows")
        until(lambda: len(stack.replica_processes()) == 1, "its process has ended")

        # A pause holds, decisions tell the story, the log proves it.
        assert "frozen" in command("pause", "model", "chat")
        assert "go on" in command("resume", "model", "chat")
        codes = [decision["code"] for decision in command.json("decisions", "chat", "--limit", "1000")["decisions"]]
        assert any("override" in code for code in codes)
    stack.stop_process(stack.broker)
    proof = command.json("replay-log", "--log", str(stack.folder / "tidegate.sqlite"))
    assert (proof["different"], proof["steps"] > 10) == (None, True)
