"""Jobs of ours that the log does not know, because it was lost or is an older backup: which they are, and back.

A broker finds them by itself, but then its registry is empty until their agents are heard again, which may take half a
minute, and gateways send nothing meanwhile. So they are awaited here first, at the broker's address, where gateways
find no registry and keep the one that they have. When all is known, one step writes it down; before it, nothing is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import aiohttp
from fastapi import FastAPI

from actuators.base import Actuator
from actuators.slurm.job import COMMENT_MARK, LIVING, JobRecord
from actuators.slurm.marks import Mark, mark_of_job
from broker.app.access import AgentAccess
from broker.app.agents import AgentTable, agents_router
from broker.app.guard import BodyLimit, Problem, add_errors
from broker.app.log_ids import log_ids_of
from broker.app.pools import require_runnable
from broker.app.serving import serving
from broker.app.settings import SiteSettings, load_policies, load_site, spec_changed
from broker.app.settings.slurm import SlurmPool
from broker.app.site_log import open_log
from broker.app.slurm_pool import slurm_actuator, slurm_client
from broker.clock import SystemClock
from broker.control.loop import ControlLoop
from broker.model.errors import ConfigError, TransientError
from broker.model.identity import endpoint_key, names_launch
from broker.model.observation import LogsTaken, Observation, PoolSnapshot, Probe, ProbeVerdict
from broker.model.ports import Clock
from broker.model.replica import ObservedReplica, ReplicaPhase
from broker.model.spec import Mode, ModelSpec
from broker.model.state import BrokerState
from policies.registry import cached
from signals.ingest.probe import Prober, ProbeTarget

PATIENCE_S = 45.0
"""An agent that no broker hears tries again every 30 s."""
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Adoption:
    """What jobs are looked for, of the site whose log is to know them."""

    site: SiteSettings
    models: tuple[ModelSpec, ...]
    pools: Mapping[str, SlurmPool]


class Verdict(StrEnum):
    """TAKE: ours and not on record. END: the same, but the broker has no use for it. KNOWN: on record, nothing to do.
    LEAVE: not provably ours."""

    TAKE = "take back"
    END = "end"
    KNOWN = "on record"
    LEAVE = "leave alone"


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job of our user that is named or marked like ours, and what is to be done with it."""

    job: JobRecord
    mark: Mark | None
    verdict: Verdict
    words: str = ""


def adoption_of(site_path: Path, policies_path: Path) -> Adoption:
    """Raises ``ConfigError``, also where there is nothing to take back, or nowhere to write it down."""
    site = load_site(site_path)
    pools = {name: pool for name, pool in site.pools.items() if isinstance(pool, SlurmPool)}
    if not pools:
        words = "none is of kind slurm; what runs on this machine `tidegate run` finds by itself"
        raise ConfigError(words, path=str(site_path), field="pools")
    if site.log.kind == "memory":
        words = "the log is in memory and ends with its broker: `tidegate run` finds the jobs anew each time"
        raise ConfigError(words, path=str(site_path), field="log.kind")
    require_runnable(site, site_path)
    return Adoption(site, load_policies(policies_path, site), pools)


async def found_jobs(adoption: Adoption, state: BrokerState) -> list[FoundJob]:
    """Every living job that is ours or looks like it, as Slurm lists them. Raises ``ActuatorError``."""
    transports = {pool.transport.model_dump_json(): pool.transport for pool in adoption.pools.values()}
    declared = {model.model_id for model in adoption.models}
    found: dict[tuple[int, str], FoundJob] = {}  # two transports may lead to one Slurm
    for transport in transports.values():
        client = slurm_client(transport, SystemClock())
        try:
            jobs = await client.jobs()
        finally:
            await client.close()
        for job in jobs:
            if (judged := judge(job, adoption.site.cluster, adoption.pools, declared, state)) is not None:
                found[job.job_id, job.name] = judged
    return list(found.values())


def judge(
    job: JobRecord, cluster: str, pool_ids: Collection[str], model_ids: Collection[str], state: BrokerState
) -> FoundJob | None:
    """What is to be done with a job of our user; None if it has ended, or does not look like one of ours. Pure."""
    mark = mark_of_job(job)
    if job.state not in LIVING or (mark is None and not _looks_like_ours(job)):
        return None
    if mark is None:
        return FoundJob(job, None, Verdict.LEAVE, "its name does not follow from its comment: it is not ours")
    if mark.cluster != cluster:
        return FoundJob(job, mark, Verdict.LEAVE, f"it is of the cluster {mark.cluster}")
    if mark.pool_id not in pool_ids:
        return FoundJob(job, mark, Verdict.LEAVE, f"it is of the pool {mark.pool_id}, which is not declared here")
    known_log = mark.log_id in ("", *state.control.log_ids)
    record = state.replicas_of(mark.model_id).get(mark.replica_id)
    if record is not None and known_log:
        return FoundJob(job, mark, Verdict.KNOWN, f"as {record.phase}")
    if job.restarts:
        return FoundJob(job, mark, Verdict.END, "it was requeued, and its replica ended with its first run")
    if mark.model_id not in model_ids:
        return FoundJob(job, mark, Verdict.END, f"the policies have no model {mark.model_id}; it is drained first")
    return FoundJob(job, mark, Verdict.TAKE, "" if known_log else "another log began it: is no other broker running?")


def _looks_like_ours(job: JobRecord) -> bool:
    return job.comment.startswith(COMMENT_MARK) or names_launch(job.name)


async def take_back(adoption: Adoption, secret: bytes, log_ids: Iterable[str]) -> BrokerState:
    """Lead the log, await the agents, write down in one step what is there, with the ``log_ids`` that it answers for
    from now on, and return what is on record then.

    Raises ``LeadershipRefused`` while a broker leads the log, ``ConfigError`` if the broker's address cannot be had,
    ``ActuatorError`` if Slurm cannot be asked and ``LogError``; then nothing was written.
    """
    site = adoption.site
    if site.mode is Mode.OBSERVE:
        raise ConfigError("a broker that observes takes nothing back; the mode has to be act", field="mode")
    clock = SystemClock()
    agents = AgentTable(clock)
    async with AsyncExitStack() as stack:
        log = open_log(site)
        stack.push_async_callback(log.close)
        loop = ControlLoop(log, cached(), dispatch=lambda effect: None)  # what is decided, the next broker carries out
        await loop.open(f"tidegate adopt, pid {os.getpid()} on {socket.gethostname()}", clock.now())
        clock.not_before(loop.state.control.last_now)
        taken = LogsTaken((*log_ids_of(loop.state), *log_ids), clock.now())
        actuators = [
            slurm_actuator(
                pool_id,
                pool,
                cluster=site.cluster,
                secret=secret,
                agents=agents,
                clock=clock,
                log_ids=taken.log_ids,
                recorded=loop.state.phases(),
            )
            for pool_id, pool in adoption.pools.items()
        ]
        for actuator in actuators:
            stack.push_async_callback(actuator.close)
        session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        app = agents_only_api(agents, AgentAccess(secret), clock, lambda: loop.state)
        await stack.enter_async_context(serving(app, site.api.host, site.api.port))
        listings, proofs = await _awaited(actuators, Prober(session, clock), secret, clock)
        declared = spec_changed(site.spec, adoption.models, clock.now())
        seen: list[Observation] = [taken, declared, *listings, *proofs]
        for observation in seen:
            loop.offer(observation)
        await loop.run(clock.now())
        return loop.state


def agents_only_api(agents: AgentTable, access: AgentAccess, clock: Clock, state: Callable[[], BrokerState]) -> FastAPI:
    """The part of the API that agents need. Gateways are told to ask again: what they know stays in force."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit)
    add_errors(app)
    app.include_router(agents_router(agents, access, clock, state))

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def later(path: str) -> None:
        words = "`tidegate adopt` takes jobs back at this address; the broker that follows it answers"
        raise Problem(503, "adopting", words, {"Retry-After": "5"})

    return app


async def _awaited(
    actuators: Sequence[Actuator], prober: Prober, secret: bytes, clock: Clock
) -> tuple[list[PoolSnapshot], list[Probe]]:
    """The listings once each running replica has proven itself, or patience is over, and the proofs. Raises
    ``TransientError`` for a pool that cannot be listed."""
    give_up_at = clock.monotonic() + PATIENCE_S
    while True:
        listings = [await actuator.observe() for actuator in actuators]
        for listing in listings:
            if not listing.known:
                raise TransientError(f"pool {listing.pool_id} cannot be listed: {listing.error}; nothing was written")
        running = [seen for listing in listings for seen in listing.replicas if seen.phase is ReplicaPhase.STARTING]
        heard = [seen for seen in running if seen.url is not None]
        probes = await asyncio.gather(*(prober.look(_target(seen, secret)) for seen in heard))
        proofs = [probe for probe in probes if probe.verdict is ProbeVerdict.READY]
        if len(proofs) == len(running) or clock.monotonic() >= give_up_at:
            return listings, proofs
        await clock.sleep_until(clock.now() + _LOOK_EVERY_S)


def _target(seen: ObservedReplica, secret: bytes) -> ProbeTarget:
    key = endpoint_key(secret, seen.replica_id, seen.generation)
    return ProbeTarget(seen.replica_id, seen.model_id, seen.url or "", key, thorough=True)
