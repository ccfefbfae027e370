"""A Slurm for people to try: started, told what to write into a site file, and gone without a trace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.command_line import ROOT, run
from tests.support.real_slurm import GPU_PARTITION, QUICK, RealSlurm, why_not
from tests.support.waiting import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(why_not(rest=True) is not None, reason=why_not(rest=True) or "there is a Slurm"),
]

NAME = f"test-{os.getpid()}"


def here(*words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.slurm_here", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout


def processes_that_name(folder: str) -> list[str]:
    return [" ".join(words) for words in map(_words, psutil.process_iter()) if folder in " ".join(words)]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_what_is_printed_makes_a_site_that_fits_and_nothing_is_left_afterwards(tmp_path: Path) -> None:
    told = here("up", NAME)
    try:
        assert here("up", NAME) == told
        (pool,) = re.findall(r"^pools:\n(?:  .*\n)+", told, re.MULTILINE)
        (tmp_path / "site.yaml").write_text(f"cluster: tried\n{pool}", encoding="utf-8")
        _, found, errors = run("doctor", "slurm", "--json", folder=tmp_path)
        (commands,) = re.findall(r"(nsenter .*) sinfo", told)
        nodes = subprocess.run([*commands.split(), "sinfo", "-h", "-o", "%D %P"], capture_output=True, check=True)
    finally:
        here("down", NAME)
    findings = json.loads(found)["pools"]["slurm"]
    assert not [finding for finding in findings if finding["verdict"] == "mend"], errors
    assert nodes.stdout.split() == [b"4", b"gpu*", b"4", b"scavenge"]
    (folder,) = set(re.findall(r"/var/tmp/slurm-\w+", told))
    assert (processes_that_name(folder), Path(folder).exists()) == ([], False)
    assert here("down", NAME) == f"no Slurm named {NAME} is up\n"


def test_a_command_finds_the_slurm_that_was_started_for_it_and_its_status_is_told() -> None:
    told = here("run", "--", "sh", "-c", "sinfo --noheader --format=%P; echo $SLURM_CONF; exit 3", status=3)
    *partitions, conf = told.split()
    assert partitions == ["gpu*", "scavenge"]
    assert (processes_that_name(conf), Path(conf).exists()) == ([], False)


def test_what_goes_on_submitting_jobs_does_not_keep_a_slurm_from_its_end() -> None:
    resubmit = 'while [ -e "$SLURM_CONF" ]; do sbatch -o /dev/null --wrap "sleep 300"; sleep 0.05; done'
    with RealSlurm(1, [GPU_PARTITION], QUICK) as slurm:
        folder = slurm.folder
        broker = subprocess.Popen(
            ["sh", "-c", resubmit], env=slurm.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: "R" in slurm.command("squeue", "-h", "-o", "%t").split(), "a job runs", 30, by=broker)
    broker.wait(30)
    assert ([process for process in psutil.process_iter() if _of(process, folder)], folder.exists()) == ([], False)


def _of(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get("SLURM_CONF", "").startswith(str(folder))
    except psutil.Error:
        return False
