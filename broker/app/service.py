"""The composition root: everything that ``tidegate run`` is made of, put together once."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog

from broker.app.access import AgentAccess, Scope, Tokens
from broker.app.agents import AgentTable
from broker.app.api import ApiParts, create_api
from broker.app.explaining import Explainer
from broker.app.faultpoints import FaultPoints, FaultyAgentTable, FaultyLog, FaultyRunner, fault_points
from broker.app.feed import Feed
from broker.app.outputs import EndpointsFile
from broker.app.pools import Parts, make_actuator, pool_held, rehearsed, require_runnable
from broker.app.probing import ProbeLoop
from broker.app.release import release
from broker.app.reloading import warn_of_removed, watch_files
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime, RuntimeSettings, cancel
from broker.app.scraping import ScrapeLoop
from broker.app.serving import serving
from broker.app.settings import Secrets, SiteSettings, load_policies, load_secrets, load_site, spec_changed
from broker.app.steadiness import steady_steps
from broker.clock import SystemClock
from broker.log.memory import MemoryLog
from broker.log.sqlite import SqliteLog
from broker.model.errors import ConfigError, LeadershipRefused, LogError, TidegateError
from broker.model.ports import Log, Runner
from broker.model.replica import ENDED
from broker.model.state import BrokerState
from policies.registry import cached
from signals.ingest.probe import Prober

logger = structlog.get_logger("broker")

_EFFECT_TIMEOUT_S = 10.0
_EFFECTS_AT_ONCE = 16


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
        log = _open_log(site, points)
        stack.push_async_callback(log.close)
        holder = f"pid {os.getpid()} on {socket.gethostname()}"
        await log.acquire_leadership(holder)  # before the pools' records: it names who leads
        _require_pools((await log.load()).state, site, files.site)
        for pool_id, pool in site.pools.items():
            stack.enter_context(pool_held(pool_id, pool))
        agents = AgentTable(clock) if points is None else FaultyAgentTable(clock, points)
        reached = (lambda name: None) if points is None else points.reached
        parts = Parts(site.cluster, secret, clock, agents, reached)
        actuators = {pool_id: make_actuator(pool_id, pool, parts) for pool_id, pool in site.pools.items()}
        for actuator in actuators.values():
            stack.push_async_callback(actuator.close)
        runner: Runner = AsyncRunner(
            actuators, clock, timeout_s=_EFFECT_TIMEOUT_S, concurrency=_EFFECTS_AT_ONCE, may_act=lambda: True
        )
        if points is not None:
            runner = FaultyRunner(runner, points)
        settings = RuntimeSettings(retention_s=site.log.retention_s)
        runtime = Runtime(
            log=log,
            policies=policies,
            actuators=actuators,
            runner=runner,
            clock=clock,
            settings=settings,
            restored=clock.not_before,
            rehearsed=lambda launch: rehearsed(launch.pool_id, site.pools[launch.pool_id], launch),
        )
        declared = spec_changed(site.spec, models, clock.now())
        await stack.enter_async_context(runtime.running(holder))
        warn_of_removed(runtime.core.loop.state, models)
        try:
            await runtime.record(declared)
        except LogError as error:
            logger.error("first_step_not_written", problem=str(error), action="the API answers 503 until it is")
        stack.enter_context(steady_steps())
        session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        loops = [
            ProbeLoop(runtime, Prober(session, clock), secret).run(),
            ScrapeLoop(runtime, secret, site.scrape).run(),
            watch_files(files.policies, site, runtime, declared.digest),
        ]
        if site.outputs.endpoints_file is not None:
            loops.append(EndpointsFile(site.outputs.endpoints_file, runtime).run())
        tasks = [asyncio.create_task(loop) for loop in loops]
        stack.push_async_callback(cancel, tasks)

        feed = Feed(runtime)
        explainer = Explainer(log, policies)
        app = create_api(ApiParts(runtime, feed, _tokens(secrets), agents, AgentAccess(secret), explainer, release()))
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


def site_secret(secrets: Secrets) -> bytes:
    """Raises ``ConfigError`` if the site has none."""
    if secrets.site_secret is None:
        raise ConfigError(
            "no site secret, from which the replicas' keys derive: set secret_file in site.yaml or "
            "TIDEGATE_SITE_SECRET; make one with: openssl rand -hex 32. `tidegate init DIR` makes a new site with its "
            "secrets"
        )
    return secrets.site_secret.get_secret_value().encode()


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


def _open_log(site: SiteSettings, points: FaultPoints | None) -> Log:
    if site.log.kind == "memory":
        return MemoryLog()
    return SqliteLog(site.log.path) if points is None else FaultyLog(site.log.path, points)
