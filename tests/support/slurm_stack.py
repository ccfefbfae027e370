"""A broker and a gateway whose replicas are jobs of a real Slurm on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.demo.stack import Stack
from tests.support.calm_model import POLICIES
from tests.support.command_line import ROOT
from tests.support.ports import free_port
from tests.support.real_slurm import RealSlurm
from tests.support.waiting import until

SITE = """\
cluster: {cluster}
mode: {mode}
pools:
  shared:
    kind: slurm
    gpus: 4
    partition: gpu
    time_limit: {time_limit}
    poll: 1s
    transport: {transport}
    job:
      broker_url: http://127.0.0.1:{port}
      directory: {folder}
      python: {python}
      environment: {{PYTHONPATH: {root}}}
      address: 127.0.0.1
      notice: {notice}
      ports: {ports}
limits: {{renewal: {{margin: 5s, queue_prior: 5s, load_prior: 10s}}, breaker: {{failures: {failures}}}}}
log: {{kind: sqlite, path: tidegate.sqlite}}
api: {{port: {port}}}
"""


def slurm_site(
    slurm: RealSlurm, cluster: str, *, transport: str = "{kind: commands}", time_limit: str = "1h",
    notice: str = "30s", mode: str = "act", ports: tuple[int, int] = (20000, 29999), failures: int = 3,
    directory: Path | None = None,
) -> str:  # fmt: skip
    """``site.yaml``. ``failures`` open the breaker; ``directory`` is where jobs run, by default the cluster's."""
    return SITE.format(
        cluster=cluster, mode=mode, time_limit=time_limit, transport=transport, port=free_port(),
        folder=directory or slurm.folder, python=sys.executable, root=ROOT, notice=notice, ports=list(ports),
        failures=failures,
    )  # fmt: skip


def slurm_environment(slurm: RealSlurm) -> dict[str, str]:
    """Of a broker that is to find this cluster."""
    return {"PYTHONPATH": str(ROOT), "SLURM_CONF": slurm.environment["SLURM_CONF"]}


@contextmanager
def slurm_stack(
    slurm: RealSlurm, folder: Path, cluster: str, *, transport: str = "{kind: commands}", time_limit: str = "1h",
    notice: str = "30s", mode: str = "act", policies: str = POLICIES,
) -> Iterator[Stack]:  # fmt: skip
    """Both run on entry. On exit they end, and their jobs."""
    site = slurm_site(slurm, cluster, transport=transport, time_limit=time_limit, notice=notice, mode=mode)
    stack = Stack(folder, site, policies, ("chat",), cluster, environment=slurm_environment(slurm))
    try:
        stack.write_files()
        stack.start_broker()
        stack.start_gateway()
        yield stack
    finally:
        stack.stop()
        cancel_jobs(slurm, cluster)


def cancel_jobs(slurm: RealSlurm, cluster: str) -> None:
    """Jobs outlive their broker: the next test on the same Slurm would find them."""
    ours = [
        line.split()[0] for line in slurm.command("squeue", "-h", "-o", "%i %k").splitlines() if f"={cluster} " in line
    ]
    if ours:
        slurm.command("scancel", *ours)
    until(lambda: not set(ours) & set(slurm.command("squeue", "-h", "-o", "%i").split()), "its jobs are gone")
