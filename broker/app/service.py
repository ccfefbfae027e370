"""The composition root: everything that ``tidegate run`` is made of, put together once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import structlog

from broker.app.access import AgentAccess, Scope, Tokens
from broker.app.agents import AgentTable
from broker.app.api import ApiParts, create_api
from broker.app.explaining import Explainer
from broker.app.faultpoints import FaultyAgentTable, FaultyRunner, fault_points, with_points
from broker.app.feed import Feed
from broker.app.log_ids import log_ids_of
from broker.app.outputs import EndpointsFile
from broker.app.pools import Parts, make_actuator, pool_held, rehearsed, require_runnable
from broker.app.probing import ProbeLoop
from broker.app.release import release
from broker.app.reloading import policies_by_now, warn_of_removed, watch_files
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime, RuntimeSettings, cancel
from broker.app.scraping import ScrapeLoop, scrape_targets
from broker.app.serving import serving
from broker.app.settings import (
    Secrets,
    SiteSettings,
    load_policies,
    load_secrets,
    load_site,
    site_secret,
    spec_changed,
)
from broker.app.settings.kafka import KafkaLog as KafkaSettings
from broker.app.site_log import open_log
from broker.app.slurm_pool import require_alone
from broker.app.steadiness import steady_steps
from broker.clock import SystemClock
from broker.model.errors import ConfigError, LeadershipRefused, LogError, TidegateError
from broker.model.observation import LogsTaken
from broker.model.ports import Clock, Log, Runner
from broker.model.replica import ENDED
from broker.model.spec import Mode
from broker.model.state import BrokerState
from policies.registry import cached
from signals.ingest.probe import Prober

if TYPE_CHECKING:
    from broker.app.measurements import Workers

logger = structlog.get_logger("broker")

_EFFECT_TIMEOUT_S = 10.0
_EFFECTS_AT_ONCE = 16
_POOL_ASKED_EVERY_S = 0.5


class BrokerDied(TidegateError):
    """A part of the running broker failed in a way that nobody foresaw."""


@dataclass(frozen=True, slots=True)
class ServiceFiles:
    """What the operator gave: paths, read again when they change."""

    site: Path
    policies: Path


async def run_broker(files: ServiceFiles, stop: asyncio.Event, *, ready: Callable[[str], None] | None = None) -> None:
    """Run until ``stop`` is set. ``ready`` is told the API's address once it answers.

    Raises ``ConfigError`` for what the operator can mend, ``LogError`` (``LeadershipRefused``) for the log or a
    pool's records.
    """
    site = load_site(files.site)
    require_runnable(site, files.site)
    models = load_policies(files.policies, site)
    secrets = load_secrets(site)
    secret = site_secret(secrets)
    clock = SystemClock()
    policies = cached()
    points = fault_points(os.environ)
    async with AsyncExitStack() as stack:
        log: Log = open_log(site, stand_by=True)
        if points is not None:
            log = with_points(log, points)
        stack.push_async_callback(log.close)
        holder = f"pid {os.getpid()} on {socket.gethostname()}"
        if not await _led(log, holder, stop):  # before the pools' records: it names who leads
            return
        restored = (await log.load()).state
        _require_cluster(restored, site, files.site)
        _require_pools(restored, site, files.site)
        log_ids = () if site.log.kind == "memory" else log_ids_of(restored)
        if not await _held(stack, site, stop):
            return
        agents = AgentTable(clock) if points is None else FaultyAgentTable(clock, points)
        reached = (lambda name: None) if points is None else points.reached
        acts = site.mode is Mode.ACT
        parts = Parts(site.cluster, secret, clock, agents, log_ids, restored.phases(), reached, acts)
        actuators = {pool_id: make_actuator(pool_id, pool, parts) for pool_id, pool in site.pools.items()}
        for actuator in actuators.values():
            stack.push_async_callback(actuator.close)
        if restored.control.site is None:
            await require_alone(actuators)
        runner: Runner = AsyncRunner(
            actuators, clock, timeout_s=_EFFECT_TIMEOUT_S, concurrency=_EFFECTS_AT_ONCE, may_act=log.may_act
        )
        if points is not None:
            runner = FaultyRunner(runner, points)
        settings = RuntimeSettings(retention_s=site.log.retention_s)
        workers = _workers(site, secrets, clock)
        runtime = Runtime(
            log=log,
            policies=policies,
            actuators=actuators,
            runner=runner,
            clock=clock,
            settings=settings,
            restored=clock.not_before,
            rehearsed=lambda launch: rehearsed(site.pools[launch.pool_id], launch, log_ids),
            measured=None if workers is None else workers.outbox.send,
        )
        models = policies_by_now(files.policies, site, models, restored)
        declared = spec_changed(site.spec, models, clock.now())
        await stack.enter_async_context(runtime.running(holder, LogsTaken(log_ids, clock.now())))
        warn_of_removed(runtime.core.loop.state, models)
        try:
            await runtime.record(declared)
        except LogError as error:
            logger.error("first_step_not_written", problem=str(error), action="the API answers 503 until it is")
        stack.enter_context(steady_steps())
        session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        loops = [
            ProbeLoop(runtime, Prober(session, clock), secret).run(),
            watch_files(files.policies, site, runtime, declared.digest),
        ]
        if site.scrape.by == "broker":
            scraping = ScrapeLoop(
                clock, site.scrape, lambda: scrape_targets(runtime.core.loop.state, secret), runtime.observe
            )
            loops.append(scraping.run())
        if workers is not None:
            loops += [
                workers.outbox.run(),
                workers.snapshots(clock, runtime.offer, restored).run(),
                workers.gateways(runtime).run(),
                workers.watch.run(),
            ]
            if workers.scrapers is not None:
                loops.append(workers.scrapers.run())
        if site.outputs.endpoints_file is not None:
            loops.append(EndpointsFile(site.outputs.endpoints_file, runtime).run())
        tasks = [asyncio.create_task(loop) for loop in loops]
        stack.push_async_callback(cancel, tasks)

        feed = Feed(runtime)
        explainer = Explainer(log, policies)
        families = tuple if workers is None else partial(workers.families, log)
        access = AgentAccess(secret)
        app = create_api(ApiParts(runtime, feed, _tokens(secrets), agents, access, explainer, release(), families))
        address = await stack.enter_async_context(serving(app, site.api.host, site.api.port))
        stack.callback(feed.close)  # before the server stops, which waits for open streams
        logger.info("broker_ready", address=address, cluster=site.cluster, mode=site.mode.value)
        if ready is not None:
            ready(address)
        await _until(stop, runtime, tasks)
        logger.info("broker_stopping", note="replicas live on and are found again by the next broker")


async def _until(stop: asyncio.Event, runtime: Runtime, tasks: list[asyncio.Task[None]]) -> None:
    """Until the operator's word. Raises ``BrokerDied`` when a part ended that should run for ever: half a broker
    must not look like one."""
    asked, died = asyncio.create_task(stop.wait()), asyncio.create_task(runtime.died())
    try:
        await asyncio.wait((asked, died, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel((asked, died))
    if died.done() and not died.cancelled() and isinstance(deposed := died.result(), LeadershipRefused):
        raise deposed
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            logger.error("loop_died", exc_info=error)
    if not stop.is_set():
        raise BrokerDied("a part of the broker ended by a mistake in it (see above); start it again, replicas live on")


def _require_cluster(state: BrokerState, site: SiteSettings, path: Path) -> None:
    """Raises ``ConfigError`` if replicas on record were started under another cluster's name: they are found by it."""
    if state.control.site is None or state.control.site.cluster == site.cluster:
        return
    living = [name for records in state.replicas.values() for name, one in records.items() if one.phase not in ENDED]
    if living:
        raise ConfigError(
            f"is {site.cluster}, but the log is of {state.control.site.cluster}, whose replicas {', '.join(living)} "
            "would be lost: give each cluster a log of its own (in Kafka, a log.topic_prefix), or keep the name until "
            "none of them runs",
            path=str(path),
            field="cluster",
        )


def _require_pools(state: BrokerState, site: SiteSettings, path: Path) -> None:
    """Raises ``ConfigError`` if replicas on record are in a pool that is declared no more: nobody could list or stop
    them, and they would count as supply for ever."""
    lost: dict[str, list[str]] = {}
    for records in state.replicas.values():
        for record in records.values():
            if record.pool_id not in site.pools and record.phase not in ENDED:
                lost.setdefault(record.pool_id, []).append(record.replica_id)
    for pool_id, names in sorted(lost.items()):
        raise ConfigError(
            f"is not declared any more, but {', '.join(sorted(names))} on record there could then never be stopped: "
            "declare the pool again, run the broker with `models: {}` in policies.yaml until `tidegate replicas` shows "
            "nothing of the pool as running, stop the broker, and remove the pool then",
            path=str(path),
            field=f"pools.{pool_id}",
        )


def _tokens(secrets: Secrets) -> Tokens:
    given = {
        Scope.READ: secrets.read_token,
        Scope.OPERATE: secrets.operate_token,
        Scope.GATEWAY: secrets.gateway_token,
    }
    closed = [scope.value for scope, token in given.items() if token is None]
    if closed:
        logger.warning("api_scopes_closed", scopes=closed, action="set their tokens in site.yaml or the environment")
    return Tokens({scope: token.get_secret_value() for scope, token in given.items() if token is not None})


async def _held(stack: AsyncExitStack, site: SiteSettings, stop: asyncio.Event) -> bool:
    """Take the pools' records; False if told to stop before. A broker that succeeded another on this machine waits for
    that one to end: it may be paused, and ends once it learns that it was deposed."""
    for pool_id, pool in site.pools.items():
        told = False
        while True:
            try:
                stack.enter_context(pool_held(pool_id, pool))
                break
            except LeadershipRefused as refusal:
                if site.log.kind != "kafka":
                    raise
                if not told:
                    logger.warning("pool_in_use", problem=str(refusal), action="this broker goes on once it is let go")
                told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POOL_ASKED_EVERY_S):
                    await stop.wait()
                    return False
    return True


def _workers(site: SiteSettings, secrets: Secrets, clock: Clock) -> Workers | None:
    """Those who keep the windows, where it is not this broker itself."""
    if not isinstance(site.log, KafkaSettings):
        return None
    from broker.app.kafka import kafka_connection  # an extra
    from broker.app.measurements import Workers
    from broker.app.scraper_watch import ScraperWatch

    connection, layout = kafka_connection(site.log, secrets), site.log.layout(site.cluster)
    scrapers = ScraperWatch(connection, layout, clock) if site.scrape.by == "scrapers" else None
    return Workers(connection, layout, site.spec.limits.signal_patience_s, scrapers)


async def _led(log: Log, holder: str, stop: asyncio.Event) -> bool:
    """Take leadership, which a broker that stands by waits for; False if it was told to stop before."""
    leading, asked = asyncio.create_task(log.acquire_leadership(holder)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((leading, asked), return_when=asyncio.FIRST_COMPLETED)
        if leading.done():
            leading.result()
        return leading.done()
    finally:
        await cancel((leading, asked))
