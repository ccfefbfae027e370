"""``tidegate doctor slurm`` where Slurm does not answer, and where there is nothing to ask."""

from __future__ import annotations

import json
from pathlib import Path

from cli.output import Exit
from tests.support.command_line import tidegate
from tests.support.ports import free_port

POOL = "{{kind: slurm, gpus: 8, partition: gpu, time_limit: 4h, transport: {transport}{job}}}"
JOB = ", job: {broker_url: 'http://login1:8600', directory: /scratch}"


def doctor(folder: Path, pool: str, *words: str) -> tuple[int, str]:
    site = folder / "site.yaml"
    site.write_text(f"cluster: hpc\npools: {{shared: {pool}}}\n")
    result = tidegate("doctor", "slurm", *words, "--site", site)
    return result.exit_code, result.output


def test_a_slurmrestd_that_does_not_answer_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("header.eyJleHAiOiAyMDAwMDAwMDAwLCAic3VuIjogInRpZGUifQ.signature")
    transport = f"{{kind: slurmrestd, url: 'http://127.0.0.1:{free_port()}', token_file: token}}"
    status, output = doctor(tmp_path, POOL.format(transport=transport, job=JOB), "--json")
    (finding,) = json.loads(output)["pools"]["shared"]
    assert (status, finding["verdict"], finding["about"]) == (Exit.FAILED, "mend", "Slurm")
    assert "127.0.0.1" in finding["words"]


def test_a_pool_that_says_nothing_of_its_jobs_is_a_finding(tmp_path: Path) -> None:
    status, output = doctor(tmp_path, POOL.format(transport="{kind: commands}", job=""))
    assert (status, "docs/slurm.md" in output) == (Exit.FAILED, True)


def test_a_site_without_slurm_or_without_the_named_pool_is_told(tmp_path: Path) -> None:
    status, output = doctor(tmp_path, "{kind: local, gpus: 1}")
    assert (status, "no pool of kind slurm" in output) == (Exit.USAGE, True)
    status, output = doctor(tmp_path, POOL.format(transport="{kind: commands}", job=JOB), "other")
    assert (status, "no Slurm pool 'other'; it has shared" in output) == (Exit.USAGE, True)
