"""The broker's whole memory, keyed by entity. Only ``step`` makes changes to it, and only as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.making import quickly_made
from broker.model.observation import Override, PauseChanged
from broker.model.replica import GatewaySessionKey, Replica, ReplicaPhase
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import JsonValue, ModelSpec, SiteSpec
from broker.model.starts import StartTimes

Memory = Mapping[str, JsonValue]
"""A policy's bounded memory: plain JSON values, so that it survives a restart exactly."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Failed starts in a row, the last of them for the reason ``why``; while ``open_until`` lies ahead nothing is
    started."""

    failures: int = 0
    opened: int = 0
    open_until: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class TimedTarget:
    """A recommendation kept for stabilisation."""

    at: float
    target: int


@dataclass(frozen=True, slots=True)
class ModelState:
    """All that is remembered of one model beside its replicas. ``wake_at`` is when it must be looked at again.
    ``breakers`` by pool: those that nothing failed in are not there.

    ``history`` are the policy's latest wishes, ``moves`` the targets that were lately given up for another.
    """

    model_id: str
    spec: ModelSpec
    target: int
    baseline: int = 0
    next_generation: int = 1
    retired: bool = False
    draining: bool = False
    snapshot: ModelSnapshot | None = None
    memory: Memory = field(default_factory=dict)
    shadow_memory: Mapping[str, Memory] = field(default_factory=dict)
    history: tuple[TimedTarget, ...] = ()
    moves: tuple[TimedTarget, ...] = ()
    override: Override | None = None
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    last_code: str = ""
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class PoolState:
    """What is known of one pool. ``known_at``: last good listing; ``unknown_since``: set while listings fail.
    ``full_until``: it refused a start for want of room; not asked again before.
    """

    pool_id: str
    gpus_total: int | None = None
    known_at: float | None = None
    unknown_since: float | None = None
    full_until: float | None = None
    error: str = ""


@quickly_made
@dataclass(frozen=True, slots=True)
class GatewayState:
    """One gateway session, live until ``seen_at`` + the session time-out."""

    key: GatewaySessionKey
    sequence: int
    applied_revision: int
    seen_at: float
    in_flight: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControlState:
    """What concerns the whole cluster: the clock's high mark, since when this leader leads, the registry's revision,
    recent starts and stops. ``log_ids`` are those that this log answers for, its own first."""

    last_now: float = 0.0
    led_since: float = 0.0
    revision: int = 0
    site: SiteSpec | None = None
    digest: str = ""
    pauses: tuple[PauseChanged, ...] = ()
    starts: tuple[float, ...] = ()
    stops: tuple[float, ...] = ()
    log_ids: tuple[str, ...] = ()


Entity = ControlState | ModelState | PoolState | GatewayState | StartTimes | Replica

EntityKey = tuple[str, str]
"""(kind, id): ("control", ""), ("model", id), ("pool", id), ("gateway", id/boot), ("starts", model/pool),
("replica", id)."""

Changes = Mapping[EntityKey, Entity | None]
"""Only what changed; None removes the entity."""


@quickly_made
@dataclass(frozen=True, slots=True)
class BrokerState:
    """A value: ``with_changes`` gives a new one and shares what did not change. Replicas are kept by model."""

    control: ControlState = ControlState()
    models: Mapping[str, ModelState] = field(default_factory=dict)
    pools: Mapping[str, PoolState] = field(default_factory=dict)
    gateways: Mapping[str, GatewayState] = field(default_factory=dict)
    starts: Mapping[str, StartTimes] = field(default_factory=dict)
    replicas: Mapping[str, Mapping[str, Replica]] = field(default_factory=dict)

    def replicas_of(self, model_id: str) -> Mapping[str, Replica]:
        return self.replicas.get(model_id, {})

    def phases(self) -> dict[str, ReplicaPhase]:
        """Of every replica, by its id."""
        return {name: record.phase for records in self.replicas.values() for name, record in records.items()}

    def entities(self) -> dict[EntityKey, Entity]:
        """Everything, by key: what a checkpoint holds and what ``with_changes`` on an empty state restores."""
        everything: dict[EntityKey, Entity] = {("control", ""): self.control}
        everything.update({("model", key): model for key, model in self.models.items()})
        everything.update({("pool", key): pool for key, pool in self.pools.items()})
        everything.update({("gateway", key): gateway for key, gateway in self.gateways.items()})
        everything.update({("starts", key): starts for key, starts in self.starts.items()})
        for replicas in self.replicas.values():
            everything.update({("replica", key): replica for key, replica in replicas.items()})
        return everything

    def with_changes(self, changes: Changes) -> BrokerState:
        control = self.control
        models, pools, gateways = dict(self.models), dict(self.pools), dict(self.gateways)
        starts = self.starts
        copied: dict[str, dict[str, Replica]] = {}
        gone: list[str] = []
        for (kind, key), entity in changes.items():
            match entity:
                case Replica():  # first: a step may change 10,000 of them
                    if entity.model_id not in copied:
                        copied[entity.model_id] = dict(self.replicas_of(entity.model_id))
                    copied[entity.model_id][key] = entity
                case ModelState():
                    models[key] = entity
                case ControlState():
                    control = entity
                case PoolState():
                    pools[key] = entity
                case GatewayState():
                    gateways[key] = entity
                case StartTimes():
                    starts = {**starts, key: entity}
                case None if kind == "replica":
                    gone.append(key)
                case None if kind == "starts":
                    starts = {other: times for other, times in starts.items() if other != key}
                case None if kind == "model":
                    models.pop(key, None)
                case None if kind == "pool":
                    pools.pop(key, None)
                case None:
                    gateways.pop(key, None)
        replicas = self._replicas_with(copied, gone) if copied or gone else self.replicas
        return BrokerState(control, models, pools, gateways, starts, replicas)

    def _replicas_with(
        self, copied: dict[str, dict[str, Replica]], gone: list[str]
    ) -> dict[str, Mapping[str, Replica]]:
        """With these models' replicas instead of their former ones, and without those ``gone``."""
        replicas: dict[str, Mapping[str, Replica]] = dict(self.replicas)
        for key in gone:
            model_id = next((m for m, members in (replicas | copied).items() if key in members), None)
            if model_id is not None:
                if model_id not in copied:
                    copied[model_id] = dict(replicas[model_id])
                copied[model_id].pop(key, None)
        replicas.update(copied)
        for model_id in [m for m, members in replicas.items() if not members]:
            del replicas[model_id]
        return replicas


def gateway_entity_key(key: GatewaySessionKey) -> str:
    return f"{key.gateway_id}/{key.boot_id}"
