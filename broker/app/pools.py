"""What starts a pool's replicas, by its kind. A new kind has its settings in ``settings.site`` and its place here."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actuators.base import Actuator
from actuators.local.actuator import LocalActuator
from actuators.local.census import require_own_records
from actuators.local.lock import records_locked
from actuators.slurm.script import rehearsed_script, script_problem
from broker.app.settings import SiteSettings
from broker.app.settings.site import LocalPool, PoolSettings
from broker.app.settings.slurm import SlurmPool
from broker.app.slurm_pool import slurm_actuator
from broker.model.agents import Agents
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.identity import endpoint_key
from broker.model.plan import Launch
from broker.model.ports import Clock
from broker.model.replica import ReplicaPhase


@dataclass(frozen=True, slots=True)
class Parts:
    """What every actuator may be made with. ``log_ids`` are of the logs whose replicas are this broker's, its own
    first; ``recorded`` are the phases in which the log has replicas, by id; ``acts`` is false in a broker that
    observes; ``checkpoint`` is told where a fault test may let the broker die."""

    cluster: str
    secret: bytes
    clock: Clock
    agents: Agents
    log_ids: Sequence[str]
    recorded: Mapping[str, ReplicaPhase]
    checkpoint: Callable[[str], None]
    acts: bool

    def endpoint_key(self, name: str, generation: int) -> str:
        return endpoint_key(self.secret, name, generation)


@dataclass(frozen=True, slots=True)
class _Kind:
    """``held``: what this process holds of a pool for as long as it runs."""

    held: Callable[[str, Any], AbstractContextManager[None]]
    make: Callable[[str, Any, Parts], Actuator]


def _local(pool_id: str, pool: LocalPool, parts: Parts) -> Actuator:
    require_own_records(parts.cluster, pool_id, pool.state_dir)
    return LocalActuator(
        pool.to_spec(pool_id),
        pool.state_dir,
        pool.log_dir,
        endpoint_key=parts.endpoint_key,
        cluster=parts.cluster,
        clock=parts.clock,
        host=pool.host,
        log_limit_bytes=pool.log_limit_bytes,
    )


def _slurm(pool_id: str, pool: SlurmPool, parts: Parts) -> Actuator:
    return slurm_actuator(
        pool_id, pool, cluster=parts.cluster, secret=parts.secret, agents=parts.agents, clock=parts.clock,
        log_ids=parts.log_ids, recorded=parts.recorded, acts=parts.acts, checkpoint=parts.checkpoint,
    )  # fmt: skip


_KINDS: Mapping[str, _Kind] = {
    "local": _Kind(lambda pool_id, pool: records_locked(pool.state_dir, pool_id), _local),
    "slurm": _Kind(lambda pool_id, pool: nullcontext(), _slurm),
}


def require_runnable(site: SiteSettings, path: Path) -> None:
    """Raises ``ConfigErrors`` for pools that say enough to be simulated and too little to be run, or whose jobs can
    have no script."""
    problems = [
        ConfigError(error.problem, path=str(path), field=error.field)
        for pool_id, pool in site.pools.items()
        if pool.kind == "slurm" and (error := _not_runnable(pool_id, pool)) is not None
    ]
    if problems:
        raise ConfigErrors(problems)


def _not_runnable(pool_id: str, pool: SlurmPool) -> ConfigError | None:
    if pool.job is None:
        words = (
            "is missing: it says what a job runs and where (docs/slurm.md); without it the pool can only be simulated"
        )
        return ConfigError(words, field=f"pools.{pool_id}.job")
    return script_problem(pool.to_spec(pool_id))


def pool_held(pool_id: str, pool: PoolSettings) -> AbstractContextManager[None]:
    """Raises ``LeadershipRefused`` if another process has it."""
    return _KINDS[pool.kind].held(pool_id, pool)


def rehearsed(pool: PoolSettings, launch: Launch, log_ids: Sequence[str]) -> str:
    """What ``start`` would begin, for a person to read. Touches nothing. Raises ``TidegateError`` for what it could
    not."""
    if pool.kind == "slurm":
        return rehearsed_script(launch, pool.to_spec(launch.pool_id), *log_ids[:1])
    return shlex.join(launch.model.engine.command)


def make_actuator(pool_id: str, pool: PoolSettings, parts: Parts) -> Actuator:
    """Raises ``ConfigError`` for a pool that cannot be worked with as it is declared."""
    return _KINDS[pool.kind].make(pool_id, pool, parts)
