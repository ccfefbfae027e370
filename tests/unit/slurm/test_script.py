"""From a launch to a job: what is asked for, and a script that a shell reads as it is meant."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actuators.slurm import agent, sbatch
from actuators.slurm.job import JobSpec, WarningSignal
from actuators.slurm.marks import mark_of_launch
from actuators.slurm.script import AGENT, HIDDEN_TOKEN, job_spec
from broker.model.errors import ActionRejected, ConfigError
from broker.model.identity import action_id
from broker.model.plan import Launch
from broker.model.replica import Tier
from broker.model.spec import EngineSpec, JsonValue, ModelSpec, PolicySpec, PoolSpec

JOB: dict[str, JsonValue] = {"broker_url": "http://broker:8600", "directory": "/home/tide/jobs"}


def launch(*command: str, gpus: int = 2, environment: dict[str, str] | None = None) -> Launch:
    engine = EngineSpec(
        command or ("vllm", "serve", "/models/chat", "--served-model-name", "{model}", "--port", "{port}"),
        environment or {},
    )
    model = ModelSpec("chat", engine, PolicySpec("threshold"), gpus=gpus)
    name = action_id("launch", "hpc", "chat", 0, 7)
    return Launch(name, "hpc", "chat-0-g7", model, "shared", 0, 7, Tier.ELASTIC)


def pool(job: dict[str, JsonValue] | None = None, **options: JsonValue) -> PoolSpec:
    given: dict[str, JsonValue] = {"partition": "gpu", "time_limit_s": 14400.0, "job": JOB | (job or {})}
    return PoolSpec("shared", "slurm", 16, options=given | options)


def spec_of(made: Launch | None = None, declared: PoolSpec | None = None, **more: Any) -> JobSpec:
    return job_spec(made or launch(), declared or pool(), token="the-token", **more)


def lines(spec: JobSpec) -> list[str]:
    return spec.script.partition("exec ")[0].splitlines()


def words_of(script: str, tmp_path: Path) -> list[str]:
    """What the shell would execute, by a stand-in that prints its arguments instead."""
    echo = tmp_path / "python3"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    done = subprocess.run(
        ["bash", "-s"], input=script, text=True, capture_output=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_job_says_whose_it_is_and_asks_for_what_its_pool_says() -> None:
    spec = spec_of(
        None,
        pool(
            {"cpus_per_gpu": 8, "memory_per_gpu_mib": 64000, "reservation": "r1", "licenses": ["a", "b"]},
            gpu_type="a100", account="inference", qos="short", constraint="nvlink",
        ),
    )  # fmt: skip
    assert spec.name == launch().action_id
    assert spec.comment == mark_of_launch(launch()).comment
    assert replace(spec, script="", comment="") == JobSpec(
        name=spec.name, comment="", script="", partition="gpu", time_limit_s=14400.0,
        output="/home/tide/jobs/chat-0-g7-%j.out", working_directory="/home/tide/jobs", gpus=2, gpu_type="a100",
        cpus=16, memory_mib=128000, account="inference", qos="short", constraint="nvlink", reservation="r1",
        licenses=("a", "b"), warning=WarningSignal("USR1", 690),
    )  # fmt: skip


def test_the_script_can_be_submitted_by_hand() -> None:
    spec = spec_of(None, pool({"exclude": ["n1", "n2"]}, gpu_type="a100"))
    told = [line for line in lines(spec) if line.startswith("#SBATCH ")]
    assert told == [f"#SBATCH {option}" for option in sbatch.script_options(spec)]
    assert {
        "#SBATCH --no-requeue", "#SBATCH --signal=B:USR1@690", "#SBATCH --gres=gpu:a100:2", "#SBATCH --time=240",
        f'#SBATCH --comment="{spec.comment}"', f"#SBATCH --job-name={spec.name}", "#SBATCH --exclude=n1,n2",
    } <= set(told)  # fmt: skip
    assert spec.script.startswith("#!/bin/bash\n#SBATCH ")


def test_several_small_replicas_fit_one_node_and_a_parallel_one_takes_its_share_of_it() -> None:
    per_gpu: dict[str, JsonValue] = {"cpus_per_gpu": 8, "memory_per_gpu_mib": 1000}
    small = spec_of(launch(gpus=1), pool(per_gpu, gpus_per_node=4))
    large = spec_of(launch(gpus=4), pool(per_gpu, gpus_per_node=4))
    assert (small.nodes, small.gpus, small.cpus, small.memory_mib) == (1, 1, 8, 1000)
    assert (large.nodes, large.gpus, large.cpus, large.memory_mib) == (1, 4, 32, 4000)
    with pytest.raises(ActionRejected, match=r"needs 8 GPUs and a node of pool shared has 4"):
        spec_of(launch(gpus=8), pool(gpus_per_node=4))


def test_the_whole_script_is_bash() -> None:
    for declared in (pool(), pool({"container": {"image": "/images/vllm.sif"}, "modules": ["cuda/12"]})):
        script = spec_of(None, declared).script
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0


def test_the_engines_command_reaches_the_agent_word_for_word(tmp_path: Path) -> None:
    command = ("vllm", "serve", 'it\'s $HOME `x` "y"', '{"a": 1}', "--name={model}", "{replica}", "{host}:{port}", "")
    script = spec_of(launch(*command)).script
    assert words_of(script, tmp_path) == [
        "-I", "-S", "-", "vllm", "serve", "it's $HOME `x` \"y\"", '{"a": 1}', "--name=chat", "chat-0-g7",
        "{host}:{port}", "",
    ]  # fmt: skip


def test_the_agents_source_and_settings_reach_it_as_they_are(tmp_path: Path) -> None:
    script = spec_of(launch("serve"), pool({"front": False, "ports": [21000, 21999]})).script
    seen = tmp_path / "seen"
    shell = tmp_path / "python3"
    shell.write_text(f'#!/bin/sh\ncat > {seen}\nprintf "%s" "$TIDEGATE_AGENT" > {seen}.json\n')
    shell.chmod(0o755)
    subprocess.run(["bash", "-s"], input=script, text=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert seen.read_text() == AGENT.read_text()
    settings = agent.read_settings((tmp_path / "seen.json").read_text())
    assert (settings.broker_url, settings.action_id, settings.generation) == (
        "http://broker:8600", launch().action_id, 7,
    )  # fmt: skip
    assert (settings.front, settings.ports, settings.notice_s) == (False, (21000, 21999), 690.0)


def test_a_template_of_apptainer_wraps_the_engine_and_hands_its_key_in(tmp_path: Path) -> None:
    image = tmp_path / "vllm image.sif"
    image.touch()
    (tmp_path / "apptainer").write_text("#!/bin/sh\n")
    (tmp_path / "apptainer").chmod(0o755)
    container: JsonValue = {"image": str(image), "binds": ["/scratch:/scratch:ro"]}
    script = spec_of(launch("vllm", "serve"), pool({"container": container, "weights": str(tmp_path)})).script
    assert words_of(script, tmp_path)[3:] == [
        "apptainer", "exec", "--nv", "--bind", "/scratch:/scratch:ro", "--bind", str(tmp_path), str(image), "vllm",
        "serve",
    ]  # fmt: skip
    assert "APPTAINERENV_VLLM_API_KEY" in script


def test_modules_environment_and_prolog_come_before_the_engine_in_this_order() -> None:
    job: dict[str, JsonValue] = {
        "modules": ["cuda/12.4"], "environment": {"HF_HOME": "/scratch/hf", "A": "pool"}, "prolog": ["nvidia-smi -L"],
        "weights": "/models",
    }  # fmt: skip
    spec = spec_of(launch(environment={"A": "model's $own"}), pool(job))
    script = spec.script.partition("exec ")[0]
    marks = ["module load cuda/12.4 ||", "export HF_HOME=/scratch/hf", "export A='model'", "[ -r /models ] ||", "nvidia-smi -L\n", "export TIDEGATE_AGENT="]  # noqa: E501  # fmt: skip
    places = [script.index(mark) for mark in marks]
    assert places == sorted(places)
    assert script.startswith("#!/bin/bash -l\n")


@pytest.mark.parametrize("traces", ["set -x", "set -v"])
def test_a_prolog_that_traces_does_not_trace_the_token(traces: str, tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\n")
    (tmp_path / "python3").chmod(0o755)
    script = spec_of(None, pool({"prolog": [traces]})).script
    done = subprocess.run(
        ["bash", "-s"], input=script, text=True, capture_output=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    assert "the-token" in script
    assert "the-token" not in done.stdout + done.stderr


def test_the_token_is_in_nothing_but_the_script() -> None:
    spec = spec_of()
    assert "the-token" not in repr(replace(spec, script=""))
    assert spec.environment == {}
    assert re.findall("^.*the-token.*$", spec.script, re.MULTILINE) == ["export TIDEGATE_AGENT_TOKEN=the-token"]
    assert "the-token" not in job_spec(launch(), pool(), token=HIDDEN_TOKEN).script


def test_the_same_launch_gives_the_same_job() -> None:
    assert spec_of() == spec_of()


def test_a_fitted_wall_time_is_the_jobs() -> None:
    assert "#SBATCH --time=60" in lines(spec_of(time_limit_s=3600.0))


def test_a_sites_own_template_may_build_on_a_shipped_one(tmp_path: Path) -> None:
    own = tmp_path / "site.sh.j2"
    own.write_text('{% extends "job.sh.j2" %}\n{% block launcher %}\n    numactl --localalloc \\\n{% endblock %}\n')
    script = spec_of(launch("serve"), pool({"template": str(own)})).script
    assert words_of(script, tmp_path)[3:] == ["numactl", "--localalloc", "serve"]


BAD_TEMPLATES = [
    ("a name that means nothing", "{{ colour }}", "'colour' is undefined; it may use agent, "),
    ("an open block", "{% if x %}", "job.template"),
    ("an unknown parent", '{% extends "nothing.j2" %}', "no template nothing.j2"),
    ("itself as its parent", '{% extends "site.sh.j2" %}', "extends itself; call it otherwise"),
    ("an expression that fails", "{{ 1 / 0 }}", "fails: ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("text", "words"), [t[1:] for t in BAD_TEMPLATES], ids=[t[0] for t in BAD_TEMPLATES])
def test_a_bad_template_is_told_in_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    own = tmp_path / "site.sh.j2"
    own.write_text(text)
    with pytest.raises(ConfigError, match=r"pools\.shared\.job\.template") as caught:
        spec_of(None, pool({"template": str(own)}))
    assert words in str(caught.value)


BAD_POOLS: list[tuple[str, PoolSpec, str]] = [
    ("no broker to report to", pool({"broker_url": ""}), "pools.shared.job.broker_url: is needed"),
    ("no folder", pool({"directory": ""}), "pools.shared.job.directory: is needed"),
    ("a template that is not there", pool({"template": "/nowhere/x.j2"}), "there is no template x.j2"),
    ("a shipped template that is none", pool({"template": "x.j2"}), "shipped are apptainer.sh.j2, bare.sh.j2"),
    ("two lines for a name", pool(account="a\n#SBATCH --uid=0"), "--account; mend it"),
    ("a variable that is none", pool({"environment": {"A B": "1"}}), "'A B' cannot name a variable"),
    ("no partition", PoolSpec("shared", "slurm", 1, options={"time_limit_s": 1.0}), "pools.shared.partition"),
]


@pytest.mark.parametrize(("declared", "words"), [b[1:] for b in BAD_POOLS], ids=[b[0] for b in BAD_POOLS])
def test_a_pool_that_cannot_work_is_told_in_a_sentence(declared: PoolSpec, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(None, declared)
    assert words in str(caught.value)
