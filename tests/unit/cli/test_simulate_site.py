"""``tidegate simulate`` with scenarios, Slurm pools and a cluster; the examples that ship."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cli.output import Exit
from tests.support.command_line import run, tidegate
from tests.support.shared_data import REPOSITORY

EXAMPLES = REPOSITORY / "deploy" / "examples"
NAMES = ("scenario.yaml", "site-slurm.yaml", "cluster.yaml", "policies-slurm.yaml")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The examples, with minutes of load in place of the day."""
    for name in NAMES:
        shutil.copy(EXAMPLES / name, tmp_path / name)
    edit(tmp_path, "scenario.yaml", r"duration: 1d", "duration: 3m")
    return tmp_path


def edit(folder: Path, name: str, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, (folder / name).read_text())
    assert count == 1
    (folder / name).write_text(text)


def words(folder: Path, *more: str) -> list[str]:
    options = ("--scenario", "--site", "--cluster", "--policies")
    given = [part for option, name in zip(options, NAMES, strict=True) for part in (option, str(folder / name))]
    return ["simulate", *given, *more]


def test_the_examples_tell_queue_waits_and_harm(files: Path) -> None:
    result = tidegate(*words(files, "--json"))
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert set(summary["models"]) == {"chat", "embed"}
    assert summary["requests"]["sent"] == sum(figures["requests"]["sent"] for figures in summary["models"].values())
    assert summary["queues"]["dedicated"]["started"] == 2
    assert summary["queues"]["dedicated"]["queue_wait"]["max_s"] == 0.0
    assert summary["batch"]["jobs"] > 0
    assert {line["size"] for line in summary["batch"]["harm"]} >= {"all"}


def test_people_see_models_queue_and_batch_jobs(files: Path) -> None:
    result = tidegate(*words(files, "--seed", "2"))
    assert result.exit_code == 0, result.output
    for title in ("Models", "Replicas' jobs in the queue", "Batch jobs, with the replicas against without"):
        assert title in result.stdout


def test_the_first_replicas_start_before_the_load_unless_told_otherwise(files: Path) -> None:
    """Two minutes of warm-up, where a start takes five, made users leave at the beginning of each run."""
    covered, cold = (tidegate(*words(files, *more)) for more in ((), ("--warm-up", "0")))
    late = "0 of the 1 replicas of chat's min were ready when the load began"
    assert late not in " ".join(covered.stdout.split())
    assert late in " ".join(cold.stdout.split())


MISFITS = {
    "a partition that is not there": (
        "site-slurm.yaml", "partition: inference", "partition: interference",
        r"site-slurm.yaml:10: pools.dedicated.partition: the cluster has no partition 'interference'; there are gpu",
    ),
    "a limit over the partition's": (
        "site-slurm.yaml", "time_limit: 2d", "time_limit: 9d",
        r"site-slurm.yaml:11: pools.dedicated.time_limit: .* over the limit of partition inference",
    ),
    "a model that fits no nodes": (
        "policies-slurm.yaml", "gpus: 1\n    min: 1\n    max: 8", "gpus: 16\n    min: 1\n    max: 8",
        r"policies-slurm.yaml:9: models.chat.gpus: pool dedicated: chat needs 4 nodes with 4 GPUs; .* has 2",
    ),
    "nodes of more GPUs than there are": (
        "site-slurm.yaml", "time_limit: 2d", "time_limit: 2d\n    gpus_per_node: 8",
        r"site-slurm.yaml:12: pools.dedicated.gpus_per_node: 8 is over the GPUs of the largest node .*, 4",
    ),
    "a time limit of nothing": (
        "site-slurm.yaml", "time_limit: 2d", "time_limit: 1e-300", r"site-slurm.yaml:11: pools.dedicated.time_limit",
    ),
    "a cold start of no model": (
        "cluster.yaml", "    chat:", "    zzz:",
        r"cluster.yaml:\d+: cold_starts.models.zzz: the policies have no such model; they have chat, embed",
    ),
    "a model larger than any pool": (
        "policies-slurm.yaml", "gpus: 1\n    min: 1\n    max: 8", "gpus: 1000\n    min: 1\n    max: 8",
        r"policies-slurm.yaml:9: models.chat.gpus: a replica of chat takes 1000 GPUs, and its largest pool has",
    ),
    "a model that is not served": (
        "scenario.yaml", "  embed:", "  embedded:",
        r"scenario.yaml:22: models.embedded: the policies have no such model; they have chat, embed",
    ),
    "a site without such a pool": (
        "site-slurm.yaml", "(?s)dedicated:.*limits:", "local: {kind: local, gpus: 8}\n\nlimits:",
        r"cluster.yaml: nothing would run on this cluster: no pool of the site is of kind slurm",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "pattern", "text", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_is_told_before_anything_runs(
    files: Path, name: str, pattern: str, text: str, message: str
) -> None:
    edit(files, name, pattern, text)
    result = tidegate(*words(files))
    assert result.exit_code == int(Exit.USAGE)
    assert re.search(message, " ".join(result.stderr.split())), result.stderr


def test_a_slurm_pool_needs_a_cluster(files: Path) -> None:
    result = tidegate("simulate", *words(files)[1:5], *words(files)[7:])
    assert result.exit_code == int(Exit.USAGE)
    assert "name the file with --cluster" in " ".join(result.stderr.split())


USAGE = {
    "nothing to ask": ([], "say what is asked"),
    "both": (["--trace", "x.csv", "--scenario", "scenario.yaml"], "exclude each other"),
    "an option of traces": (["--scenario", "scenario.yaml", "--rate-scale", "2"], "--rate-scale goes with --trace"),
}


@pytest.mark.parametrize(("given", "message"), USAGE.values(), ids=USAGE.keys())
def test_options_that_make_no_sense_together(given: list[str], message: str) -> None:
    result = tidegate("simulate", "--policies", EXAMPLES / "policies.yaml", *given)
    assert result.exit_code == int(Exit.USAGE)
    assert message in " ".join(result.stderr.split())


def test_run_says_what_a_slurm_pool_lacks_that_says_enough_to_be_simulated(files: Path) -> None:
    site = files / "site-slurm.yaml"
    site.write_text(site.read_text().replace("    job: *job\n", ""))
    status, _, told = run("run", "--site", "site-slurm.yaml", "--policies", "policies-slurm.yaml", folder=files)
    assert status == int(Exit.USAGE)
    assert "pools.shared.job: is missing" in " ".join(told.split())


def test_rows_that_skip_bad_leaves_out_of_a_log_are_told(files: Path) -> None:
    rows = [(n, 60 * n) for n in range(100)]
    rows.insert(50, (100, 10**9))
    job = "{} {} 0 30 1 -1 -1 1 90 -1 1 1 1 -1 1 -1 -1 -1\n"
    (files / "log.swf").write_text("".join(job.format(*row) for row in rows))
    edit(
        files, "cluster.yaml", r"(?s)background:.*?\n(?=\S)",
        "background: {users: {kind: swf, path: log.swf, partition: gpu, skip_bad: true}}\n",
    )  # fmt: skip
    result = tidegate(*words(files, "--json"))
    assert result.exit_code == 0, result.output
    told = "log.swf: 1 row is left out of background users; the first: line 51: "
    assert told in result.stderr
    assert told in json.loads(result.stdout)["notes"][0], "who reads the figures later must know it, too"
