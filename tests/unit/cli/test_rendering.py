"""`tidegate replicas render`: what would be submitted, from the files alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from actuators.slurm.script import HIDDEN_TOKEN
from broker.model.identity import action_id
from cli.output import Exit
from tests.support.command_line import tidegate

SITE = """\
cluster: hpc
pools:
  here: {kind: local, gpus: 1}
  shared:
    kind: slurm
    partition: gpu
    time_limit: 4h
    gpus: 16
    job: {broker_url: "http://login1:8600", directory: /scratch/tide}
  bare: {kind: slurm, partition: gpu, time_limit: 4h, gpus: 16}
"""
POLICIES = """\
models:
  chat:
    engine: {command: [vllm, serve, /models/chat, --port, "{port}"]}
    gpus: 2
    policy: {kind: threshold, rules: [{signal: queue_age_s, above: 2s, for: 10s, change: +1}]}
  small:
    engine: {command: [serve, "{port}"]}
    pools: [here]
    policy: {kind: threshold, rules: [{signal: queue_age_s, above: 2s, for: 10s, change: +1}]}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str | Path, ...]:
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "policies.yaml").write_text(POLICIES)
    return "--site", tmp_path / "site.yaml", "--policies", tmp_path / "policies.yaml"


def test_the_script_that_would_be_submitted_is_printed_as_it_is(files: tuple[str | Path, ...]) -> None:
    shown = tidegate("replicas", "render", "chat", *files)
    assert shown.exit_code == Exit.OK, shown.output
    name = action_id("launch", "hpc", "chat", 0, 1)
    for line in (f"#SBATCH --job-name={name}", "#SBATCH --partition=gpu", "#SBATCH --gres=gpu:2", "#SBATCH --time=240"):
        assert line in shown.stdout.splitlines()
    assert HIDDEN_TOKEN in shown.stdout
    assert "vllm serve /models/chat --port '{port}'" in shown.stdout
    assert subprocess.run(["bash", "-n"], input=shown.stdout, text=True).returncode == 0


def test_scripts_get_one_document(files: tuple[str | Path, ...]) -> None:
    shown = json.loads(tidegate("replicas", "render", "chat", "--json", *files).stdout)
    assert shown.keys() == {"name", "comment", "partition", "script"}


@pytest.mark.parametrize(
    ("words", "told", "status"),
    [
        (("nope",), "has no model 'nope'; it has chat, small", Exit.USAGE),
        (("small",), "none of the pools of small (here) is of kind slurm", Exit.USAGE),
        (("chat", "--pool", "here"), "'here' is no Slurm pool of chat; there are shared, bare", Exit.USAGE),
        (("chat", "--pool", "bare"), "pools.bare.job", Exit.USAGE),
    ],
    ids=["an unknown model", "a local model", "a local pool", "a pool without a job"],
)
def test_what_cannot_be_rendered_is_told_in_a_sentence(
    words: tuple[str, ...], told: str, status: Exit, files: tuple[str | Path, ...]
) -> None:
    shown = tidegate("replicas", "render", *words, *files)
    assert shown.exit_code == status
    assert told in " ".join(shown.stderr.split())
