"""Faults that need a site of their own: slurmrestd and tokens, ports and disks of nodes, engines that never come."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.faults.cluster import policies_yaml
from tests.faults.conftest import Note
from tests.faults.slurm.cluster import Slurm, slurm_cluster, survived
from tests.faults.slurm.losing_proxy import losing_proxy
from tests.support.ports import free_ports, held
from tests.support.small_disk import fill, small_disk_at

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

TOKEN_LIFE_S = 12


@pytest.mark.parametrize("done", [True, False], ids=["after it was done", "before it was done"])
async def test_slurmrestd_is_killed_in_the_middle_of_a_submission(
    done: bool, slurm: Slurm, tmp_path: Path, note: Note
) -> None:
    with losing_proxy(slurm.real.rest_url) as proxy:
        opened = slurm_cluster(slurm, tmp_path, transport=f"{{kind: slurmrestd, url: {proxy.url}}}")
        async with survived(opened, "effect_done", "may have been submitted or not", note) as running:
            with ExitStack() as away:
                proxy.lose_next(done=done, then=lambda: away.enter_context(slurm.daemons.away("slurmrestd", kill=True)))
                await running.scale(3)
                assert await asyncio.to_thread(proxy.lost.wait, 20.0)
                await running.hears("pool_unknown", "slurmrestd")
            await running.settled(3, 60.0)
            await running.no_orphan_no_double()
            await running.scale(2)


async def test_a_token_expires_and_nobody_writes_a_new_one_for_a_while(
    slurm: Slurm, tmp_path: Path, note: Note
) -> None:
    path = tmp_path / "token"

    def write_token(life_s: int) -> None:
        path.write_text(slurm.real.command("scontrol", "token", f"lifespan={life_s}"))

    write_token(1800)
    transport = f"{{kind: slurmrestd, url: {slurm.real.rest_url}, token_file: {path}}}"
    async with survived(
        slurm_cluster(slurm, tmp_path, transport=transport), "pool_unknown", "expired", note
    ) as running:
        await running.kill_broker()
        write_token(TOKEN_LIFE_S)
        await running.start_broker()
        await running.hears("pool_unknown", "expired")
        await running.scale(3)
        await asyncio.sleep(5)
        assert len(running.our_jobs()) == 2
        write_token(1800)
        await running.settled(3, 60.0)
        await running.no_orphan_no_double()
        await running.scale(2)


async def test_every_port_of_the_node_is_taken(slurm: Slurm, tmp_path: Path, note: Note) -> None:
    """Two replicas have two ports each; others take the rest until the third has failed for want of one."""
    ports = free_ports(6)
    opened = slurm_cluster(slurm, tmp_path, ports=(ports[0], ports[-1]), failures=100)
    async with survived(opened, "job_ended", "not started: no port to listen on at 127.0.0.1", note) as running:
        with ExitStack() as taken:
            for port in ports:
                with suppress(OSError):
                    taken.enter_context(held(port))
            await running.scale(3)
            await running.hears("job_ended", "no port to listen on")
        await running.settled(3, 60.0)
        await running.scale(2)


async def test_an_engine_that_never_gets_healthy_opens_the_breaker_and_leaves_no_job(
    slurm: Slurm, tmp_path: Path, note: Note
) -> None:
    bad = policies_yaml(arguments=', "--fault", "never-loads"', load_timeout="4s")
    async with slurm_cluster(slurm, tmp_path, policies=bad, ready=0, failures=2) as running:
        await running.until(lambda replicas: sum(r["phase"] == "failed" for r in replicas) >= 2, 90.0)
        (breaker,) = (await running.model())["breakers"].values()
        assert breaker["opened"] == 1
        await running.no_orphan_no_double()
        assert running.our_jobs() == []
        note(str(running.told("replica_failed", "not ready 4 s after its start")[0]))
        (tmp_path / "policies.yaml").write_text(policies_yaml())
        await running.settled(1, 90.0)  # the breaker is open for a minute
        await running.no_orphan_no_double()
    running.no_traceback()


async def test_the_disk_under_the_jobs_output_is_full(slurm: Slurm, tmp_path: Path, note: Note) -> None:
    """What starts meanwhile serves, and what serves goes on."""
    (tmp_path / "jobs").mkdir()
    with small_disk_at(tmp_path / "jobs", "1m") as disk:
        async with survived(slurm_cluster(slurm, tmp_path), "agent_reports", "No space left", note) as running:
            fill(disk / "ballast")
            await running.scale(3)
            await running.settled(3)
            await running.scale(2)
