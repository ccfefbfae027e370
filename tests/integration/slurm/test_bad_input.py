"""Bad input at a broker that runs, on a real Slurm: the model that it concerns says one sentence and holds, all else
goes on, and so does what is mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.demo.stack import Stack
from tests.support.command_line import ROOT, run
from tests.support.fake_slurmrestd import jwt
from tests.support.ports import free_port
from tests.support.real_slurm import RealSlurm, why_not
from tests.support.slurm_stack import cancel_jobs, slurm_environment
from tests.support.waiting import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(why_not(rest=True) is not None, reason=why_not(rest=True) or "there is a Slurm"),
]

PARTITIONS = [
    "PartitionName=gpu Nodes=ALL Default=YES MaxTime=120 State=UP",
    "PartitionName=paid Nodes=ALL AllowAccounts=hpc State=UP",
    "PartitionName=short Nodes=ALL MaxTime=10 State=UP",
]
OPTIONS = ["SchedulerParameters=sched_min_interval=100000", "EnforcePartLimits=ALL"]
CLUSTER = "bad-input"
FAILURES = 2
"""So many failed starts open the breaker, which then stays open for longer than the test."""


@dataclass(frozen=True)
class Case:
    """``pool`` is what its pool of ``site.yaml`` says unlike the good one, ``model`` what its model of
    ``policies.yaml`` does; ``says`` are parts of its sentence. ``unlisted``: nobody can see into its pool, and nothing
    is tried."""

    says: tuple[str, ...]
    pool: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    unlisted: bool = False


CASES = {
    "partition": Case(("pools.partition of site.yaml", "no partition gpus; mend partition: known are gpu, paid"),
                      {"partition": "gpus"}),
    "account": Case(("pools.account of site.yaml", "account other, partition paid", "mend account: name one"),
                    {"partition": "paid", "account": "other"}),
    "gres": Case(("pools.gres of site.yaml", "gpu:h100:1", "mend gpu_type"), {"gpu_type": "h100"}),
    "wide": Case(("pools.good of site.yaml", "gpu:4", "the model's gpus in policies.yaml"), model={"gpus": 4}),
    "limit": Case(("pools.limit of site.yaml", "partition short gives 10m", "mend time_limit or partition"),
                  {"partition": "short"}),
    "drain": Case(("pools.good of site.yaml", "partition gpu gives 2h", "drain_limit in policies.yaml"),
                  model={"drain_limit": "3h"}),
    "template": Case(("pools.template.job.template: template", "'wieghts' is undefined; it may use agent")),
    "variable": Case(("models.variable.engine.environment: 'A B' cannot name a variable of a shell",),
                     model={"environment": {"A B": "1"}}),
    "expired": Case(("the token for slurmrestd expired", "transport.token_file or token_command of the pool"),
                    {"transport": {"token_file": "old"}}, unlisted=True),
    "foreign": Case(("slurmrestd at", "token"), {"transport": {"token_file": "foreign"}}, unlisted=True),
    "version": Case(("pools.version of site.yaml", "does not speak v0.0.45; mend transport.parser"),
                    {"transport": {"token_file": "token", "parser": "v0.0.45"}}, unlisted=True),
}  # fmt: skip
OF_POLICIES = {name: case for name, case in CASES.items() if case.model}


def cases_on(slurm: RealSlurm) -> dict[str, Case]:
    """Newer ones than 22.05 take any account where there is no accounting."""
    return CASES if slurm.is_22_05 else {name: case for name, case in CASES.items() if name != "account"}


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with RealSlurm(3, PARTITIONS, OPTIONS, rest=True, gpus_per_node=2) as slurm:
        yield slurm


def site(slurm: RealSlurm, folder: Path, port: int) -> str:
    """JSON is YAML."""
    job = {
        "broker_url": f"http://127.0.0.1:{port}",
        "directory": str(slurm.folder),
        "python": sys.executable,
        "environment": {"PYTHONPATH": str(ROOT)},
        "address": "127.0.0.1",
        "notice": "30s",
        "template": str(folder / "own.sh.j2"),
    }
    good = {"kind": "slurm", "gpus": 8, "partition": "gpu", "time_limit": "5h", "poll": "1s", "job": job}
    pools = {"good": good | {"job": job | {"template": None}}, "template": good}
    for name, case in CASES.items():
        if case.pool:
            transport = {"kind": "slurmrestd", "url": slurm.rest_url} | case.pool.get("transport", {})
            pools[name] = pools["good"] | case.pool | ({"transport": transport} if case.unlisted else {})
    return json.dumps(
        {
            "cluster": CLUSTER,
            "pools": pools,
            "limits": {"breaker": {"failures": FAILURES, "open": "1h", "max_open": "1h"}},
            "log": {"kind": "sqlite", "path": "tidegate.sqlite"},
            "api": {"port": port},
        }
    )


def policies(cases: dict[str, Case]) -> str:
    """The good model, and those of ``cases``."""
    words = ("--model", "{model}", "--host", "{host}", "--port", "{port}")
    command = ["{python}", "-m", "simulator.emulator", *words, "--shutdown-timeout", "10"]
    rule = {"name": "calm", "signal": "requests_per_replica", "below": 8, "for": "1s", "projected": True, "change": -1}
    model = {"min": 1, "max": 1, "drain_limit": "20s", "load_timeout": "60s", "stop_grace": "10s"}
    model |= {"policy": {"kind": "threshold", "rules": [rule]}}

    def declared(name: str, given: dict[str, Any], pool: str) -> dict[str, Any]:
        environment = given.get("environment", {})
        others = {key: value for key, value in given.items() if key != "environment"}
        return model | {"pools": [pool], "engine": {"command": command, "environment": environment}} | others

    models = {"chat": declared("chat", {}, "good")}
    for name, case in cases.items():
        models[name] = declared(name, case.model, "good" if case.model else name)
    return json.dumps({"models": models})


@pytest.fixture
def stack(slurm: RealSlurm, tmp_path: Path) -> Iterator[Stack]:
    """Its one good model serves."""
    (tmp_path / "token").write_text(slurm.command("scontrol", "token", "lifespan=3600"))
    (tmp_path / "old").write_text(jwt(1.6e9, 1.7e9))
    (tmp_path / "foreign").write_text(jwt(1.7e9, 4e9))
    (tmp_path / "own.sh.j2").write_text('{% extends "job.sh.j2" %}\n')
    port = free_port()
    environment = slurm_environment(slurm)
    stack = Stack(tmp_path, site(slurm, tmp_path, port), policies({}), ("chat",), CLUSTER, environment=environment)
    try:
        stack.write_files()
        stack.start_broker()
        stack.start_gateway()
        until(lambda: "ready" in phases(stack, "chat"), "the good model serves")
        yield stack
    finally:
        stack.stop()
        cancel_jobs(slurm, CLUSTER)


def phases(stack: Stack, model_id: str) -> list[str]:
    with stack.client() as client:
        return [replica["phase"] for replica in stack.replicas(client, model_id)]


def standing(stack: Stack) -> dict[str, str]:
    """What keeps each model from its target."""
    with stack.client() as client:
        return {model["model_id"]: " ".join(model["standing"]) for model in client.get("/v1/models").json()["models"]}


def explained(stack: Stack, model_id: str) -> str:
    with stack.client() as client:
        return " ".join(client.get(f"/v1/explain/{model_id}").json()["words"])


def told(stack: Stack, *words: str) -> list[str]:
    """The lines of the broker's log that tell a problem with all of these words."""
    lines = (stack.folder / "broker.log").read_text().splitlines()
    return [line for line in lines if all(word in json.loads(line).get("problem", "") for word in words)]


def answered(stack: Stack) -> int:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    return httpx.post(f"{stack.gateway_url}/v1/chat/completions", json=body, timeout=30, trust_env=False).status_code


def asked(stack: Stack, *words: str) -> str:
    status, out, err = run(
        *words, "--broker", stack.broker_url, folder=stack.folder,
        environment={"TIDEGATE_TOKEN": stack.secrets["TIDEGATE_OPERATE_TOKEN"]},
    )  # fmt: skip
    assert status == 0, err
    return " ".join(out.split())


@pytest.mark.timeout(300)
def test_a_model_with_bad_input_says_one_sentence_and_holds_and_the_others_go_on(
    slurm: RealSlurm, stack: Stack
) -> None:
    (stack.folder / "own.sh.j2").write_text("#!/bin/sh\n{{ wieghts }}\n")
    cases = cases_on(slurm)
    (stack.folder / "policies.yaml").write_text(policies(cases))
    until(lambda: len([words for words in standing(stack).values() if words]) == len(cases), "all the bad ones hold")
    held = standing(stack)
    assert held.pop("chat") == ""
    for name, case in cases.items():
        assert all(words in held[name] for words in case.says), held[name]
        assert "\n" not in held[name]
        tried = phases(stack, name)
        assert tried == [] if case.unlisted else tried == ["failed"] * FAILURES
        assert len(told(stack, *case.says)) == 1, told(stack, *case.says)
        assert all(words in explained(stack, name) for words in case.says)
    replicas, models = asked(stack, "replicas"), asked(stack, "models")
    for name, case in cases.items():
        assert case.unlisted or all(words in replicas for words in case.says), name
        assert all(words in models for words in case.says), name
    assert slurm.command("squeue", "-h", "-o", "%T").split() == ["RUNNING"]
    assert answered(stack) == 200

    mended = {name: Case(case.says, model={"gpus": 1}) for name, case in OF_POLICIES.items()}
    (stack.folder / "policies.yaml").write_text(policies(cases | mended))
    until(lambda: all("ready" in phases(stack, name) for name in mended), "what was mended serves", 60)
    assert not any(standing(stack)[name] for name in mended)
    assert phases(stack, "partition") == ["failed"] * FAILURES
