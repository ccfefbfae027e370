"""``tidegate doctor slurm`` on a real Slurm: a site that fits, looked at from within a job, and sites that do not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run
from tests.support.fake_slurmrestd import jwt
from tests.support.ports import free_port
from tests.support.real_slurm import GPU_PARTITION, QUICK, RealSlurm, why_not

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(why_not(rest=True) is not None, reason=why_not(rest=True) or "there is a Slurm"),
]

PARTITIONS = [
    GPU_PARTITION,
    "PartitionName=paid Nodes=ALL AllowAccounts=hpc State=UP",
    "PartitionName=short Nodes=ALL MaxTime=10 State=UP",
]
FAR_FUTURE = 4e9


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with RealSlurm(1, PARTITIONS, QUICK, rest=True, gpus_per_node=2) as slurm:
        (slurm.folder / "token").write_text(slurm.command("scontrol", "token", "lifespan=3600"))
        yield slurm


def site(slurm: RealSlurm, *, job: dict[str, Any] | None = None, **pool: Any) -> dict[str, Any]:
    """JSON is YAML."""
    given = {
        "broker_url": f"http://127.0.0.1:{free_port()}",
        "directory": str(slurm.folder),
        "python": sys.executable,
        "address": "127.0.0.1",
        "ports": [free := free_port(), free],
    }
    asked = {"kind": "slurm", "gpus": 4, "partition": "gpu", "time_limit": "1h", "job": given | (job or {})}
    return {"cluster": "hpc", "pools": {"shared": asked | pool}}


def rest(slurm: RealSlurm, **more: str) -> dict[str, str]:
    return {"kind": "slurmrestd", "url": slurm.rest_url, "token_file": str(slurm.folder / "token"), **more}


def doctor(slurm: RealSlurm, folder: Path, asked: dict[str, Any], *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Its exit status, and its findings by what they are about."""
    (folder / "site.yaml").write_text(json.dumps(asked))
    environment = {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
    status, out, err = run("doctor", "slurm", "--json", *words, folder=folder, environment=environment)
    assert err == ""
    return status, {finding["about"]: finding for finding in json.loads(out)["pools"]["shared"]}


@pytest.mark.parametrize("transport", ["commands", "slurmrestd"])
def test_a_probe_looks_at_a_node_from_within_a_job_and_leaves_nothing_behind(
    slurm: RealSlurm, tmp_path: Path, transport: str
) -> None:
    spoken = rest(slurm) if transport == "slurmrestd" else {"kind": "commands"}
    weights = {"weights": str(tmp_path), "prolog": ["true"]}
    status, found = doctor(slurm, tmp_path, site(slurm, job=weights, transport=spoken), "--probe", "--wait", "30s")
    verdicts = {about: finding["verdict"] for about, finding in found.items()}
    fine = ("probe", "job.python", "launcher", "job.weights", "ports", "clock of the node", "signals", "job.directory")
    assert (status, {about: verdicts.get(about) for about in fine}) == (0, dict.fromkeys(fine, "fine")), found
    assert (verdicts["broker"], verdicts["GRES"]) == ("look", "look")
    assert ("token" in found) == (transport == "slurmrestd")
    assert slurm.command("squeue", "-h", "-o", "%i") == ""
    assert not [*slurm.folder.glob("tidegate-probe-*")]


def test_without_a_probe_nothing_is_submitted_and_what_was_not_looked_at_is_told(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    before = slurm.command("squeue", "-h", "--states=all", "-o", "%i")
    status, found = doctor(slurm, tmp_path, site(slurm))
    assert (status, found["script"]["verdict"], found["nodes"]["verdict"]) == (0, "fine", "look")
    assert "--probe" in found["nodes"]["words"]
    assert slurm.command("squeue", "-h", "--states=all", "-o", "%i") == before


TO_MEND: dict[str, tuple[dict[str, Any], str, str]] = {
    "a partition that is not there": (
        {"partition": "gpus"},
        "partition",
        "there is no gpus; known are gpu, paid, short",
    ),
    "an account that the partition does not take": (
        {"partition": "paid", "account": "other"},
        "account",
        "does not take other; it takes hpc",
    ),
    "a partition that gives too little time": (
        {"partition": "short"},
        "script",
        "partition short gives 10m, and a replica needs 25m to be of use; mend time_limit or partition",
    ),
    "a GRES type that no node has": ({"gpu_type": "h100"}, "probe", "gpu:h100:1"),
    "a feature that no node has": ({"constraint": "nvlink"}, "probe", "constraint nvlink"),
    "a reservation that is not there": ({"job": {"reservation": "monday"}}, "probe", "reservation monday"),
    "a Python that is not there": ({"job": {"python": "python9"}}, "probe", "mend job.python"),
    "weights that are not there": ({"job": {"weights": "/nowhere"}}, "probe", "mend job.weights"),
    "a module that is not there": ({"job": {"modules": ["cuda/99"]}}, "probe", "mend job.modules"),
    "a container program that is not there": (
        {"job": {"container": {"image": "/nowhere.sif"}}},
        "probe",
        "mend job.modules or job.container.program",
    ),
    "a folder for output that cannot be there": (
        {"job": {"directory": "/dev/null/jobs"}},
        "probe",
        "mend job.directory",
    ),
    "an address at which no node is": ({"job": {"address": "192.0.2.1"}}, "ports", "mend job.address"),
    "a broker whose name no node knows": (
        {"job": {"broker_url": "http://nowhere.invalid:1"}},
        "broker",
        "mend job.broker_url",
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("changed", "about", "words"), TO_MEND.values(), ids=TO_MEND.keys())
def test_what_does_not_fit_the_cluster_is_told_with_what_to_mend(
    slurm: RealSlurm, tmp_path: Path, changed: dict[str, Any], about: str, words: str
) -> None:
    status, found = doctor(slurm, tmp_path, site(slurm, **changed), "--probe", "--wait", "30s")
    assert (status, found[about]["verdict"]) == (1, "mend"), found
    assert words in found[about]["words"]
    assert "\n" not in found[about]["words"]
    assert slurm.command("squeue", "-h", "-o", "%i") == ""


def test_logs_of_a_replica_that_wrote_nothing_leave_standard_output_empty(slurm: RealSlurm, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(json.dumps(site(slurm, transport=rest(slurm))))
    status, out, err = run("replicas", "logs", "chat-0-g1", folder=tmp_path)
    assert (status, out) == (1, "")
    assert err.startswith("error: there is no log of 'chat-0-g1'")


def test_more_gpus_than_the_partitions_nodes_have_are_told(slurm: RealSlurm, tmp_path: Path) -> None:
    status, found = doctor(slurm, tmp_path, site(slurm, gpus=99, gpus_per_node=2))
    assert (status, found["gpus"]["verdict"]) == (0, "look")
    assert "99 are more than the partition's 2" in found["gpus"]["words"]


def test_a_time_limit_over_the_partitions_is_told_and_jobs_ask_for_less(slurm: RealSlurm, tmp_path: Path) -> None:
    status, found = doctor(slurm, tmp_path, site(slurm, time_limit="1d"))
    assert (status, found["time_limit"]["verdict"]) == (0, "look")
    assert "1d is over the partition's 2h" in found["time_limit"]["words"]


def test_a_template_with_a_name_that_is_not_defined_is_told_with_those_that_are(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    (tmp_path / "job.sh.j2").write_text("#!/bin/sh\n{{ wieghts }}\n")
    status, found = doctor(slurm, tmp_path, site(slurm, job={"template": "job.sh.j2"}))
    assert (status, found["script"]["verdict"]) == (1, "mend")
    assert "'wieghts' is undefined; it may use" in found["script"]["words"]
    assert "weights" in found["script"]["words"]


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a token that another cluster signed": ({"token_file": "foreign"}, "token"),
    "a token that has expired": ({"token_file": "old"}, "expired"),
    "a file without a token": ({"token_file": "empty"}, "JSON web token"),
}


@pytest.mark.parametrize(("changed", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_slurmrestd_does_not_take_is_told_in_a_sentence(
    slurm: RealSlurm, tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    (tmp_path / "foreign").write_text(jwt(1.7e9, FAR_FUTURE))
    (tmp_path / "old").write_text(jwt(1.6e9, 1.7e9))
    (tmp_path / "empty").write_text("\n")
    status, found = doctor(slurm, tmp_path, site(slurm, transport=rest(slurm) | changed))
    assert (status, found["Slurm"]["verdict"], list(found)) == (1, "mend", ["Slurm"])
    assert words in found["Slurm"]["words"]


def test_a_parser_that_this_slurmrestd_does_not_speak_is_told(slurm: RealSlurm, tmp_path: Path) -> None:
    parser = "v0.0.40" if "26." in slurm.command("sinfo", "--version") else "v0.0.45"
    status, found = doctor(slurm, tmp_path, site(slurm, transport=rest(slurm, parser=parser)))
    assert (status, list(found)) == (1, ["Slurm"])
    assert f"does not speak {parser}; mend transport.parser: name another" in found["Slurm"]["words"]
