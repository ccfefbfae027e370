"""The working copy of one step: reads fall through to the state, writes are kept as changes.

Mutable, but only inside one call of ``step``: what leaves it are values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.model.identity import action_id
from broker.model.making import copy_with
from broker.model.observation import PauseScope
from broker.model.plan import Action, Launch, Publish, Stop, Withdraw
from broker.model.replica import ENDED, ON_ITS_WAY, EndpointRecord, GatewaySessionKey, Replica, ReplicaPhase, StopMode
from broker.model.spec import Limits, Mode, ModelSpec, SiteSpec
from broker.model.starts import StartTimes, starts_entity_key
from broker.model.state import (
    BrokerState,
    Changes,
    ControlState,
    Entity,
    EntityKey,
    GatewayState,
    ModelState,
    PoolState,
    gateway_entity_key,
)


@dataclass(frozen=True, slots=True)
class PolicyFault:
    """A policy that could not be asked, ``policy`` by its kind: a mistake in it, for whoever drives to tell."""

    model_id: str
    policy: str
    error: Exception


class Draft:
    """What one step has learned and decided so far. ``dirty`` are the models that must be decided anew;
    ``start_p95_s`` is kept by ``renewal``."""

    def __init__(self, state: BrokerState, now: float) -> None:
        self.now = now
        self.last_now = state.control.last_now
        self.control: ControlState = copy_with(state.control, last_now=now)
        self.models: dict[str, ModelState] = dict(state.models)
        self.pools: dict[str, PoolState] = dict(state.pools)
        self.gateways: dict[str, GatewayState] = dict(state.gateways)
        self.starts: dict[str, StartTimes] = dict(state.starts)
        self.dirty: set[str] = set()
        self.actions: list[Action] = []
        self.rehearsals: list[Launch] = []
        self.start_p95_s: dict[tuple[str, str, int], float] = {}
        self.faults: list[PolicyFault] = []
        self._base_replicas = state.replicas
        self._replicas: dict[str, dict[str, Replica]] = {}
        self._changes: dict[EntityKey, Entity | None] = {}
        self._gpus_in_use: dict[str, int] | None = None
        self._loading = 0

    # -- reading

    @property
    def site(self) -> SiteSpec:
        site = self.control.site
        assert site is not None  # nothing is decided before the first SpecChanged
        return site

    @property
    def limits(self) -> Limits:
        return self.control.site.limits if self.control.site else Limits()

    def replicas_of(self, model_id: str) -> dict[str, Replica]:
        """This model's replicas; the returned dict must not be changed by the caller."""
        own = self._replicas.get(model_id)
        if own is None:
            return self._base_replicas.get(model_id, {})  # type: ignore[return-value]  # never written to
        return own

    def has_own(self, model_id: str) -> bool:
        """Whether this step has changed any replica of the model."""
        return model_id in self._replicas

    def live_gateways(self) -> list[GatewayState]:
        session_s = self.limits.gateway_session_s
        return [gateway for gateway in self.gateways.values() if self.now < gateway.seen_at + session_s]

    def silent_gateways(self) -> list[GatewayState]:
        session_s = self.limits.gateway_session_s
        return [gateway for gateway in self.gateways.values() if not self.now < gateway.seen_at + session_s]

    def paused(self, scope: PauseScope, name: str) -> bool:
        pauses = self.control.pauses
        return bool(pauses) and any(
            pause.scope is PauseScope.ALL or (pause.scope is scope and pause.name == name) for pause in pauses
        )

    def frozen(self, replica: Replica) -> bool:
        """Whether this replica must be left alone: neither started nor told to exit."""
        return (
            self.site.mode is Mode.OBSERVE
            or self.paused(PauseScope.MODEL, replica.model_id)
            or self.paused(PauseScope.POOL, replica.pool_id)
        )

    def pool_known(self, pool_id: str) -> bool:
        """Whether the pool was listed in time, so that something may be submitted to it."""
        pool = self.pools.get(pool_id)
        return (
            pool is not None
            and pool.known_at is not None
            and pool.unknown_since is None
            and self.now < pool.known_at + self.limits.pool_patience_s
        )

    def gpus_in_use(self) -> dict[str, int]:
        """GPUs held by replicas that have not ended, by pool; counted once a step, then kept up to date."""
        if self._gpus_in_use is None:
            used: dict[str, int] = {}
            self._loading = 0
            ready = ReplicaPhase.READY  # nearly all are: a set is asked only about the others
            for model_id in self._base_replicas.keys() | self._replicas.keys():
                for replica in self.replicas_of(model_id).values():
                    phase = replica.phase
                    if phase is ready or phase not in ENDED:
                        used[replica.pool_id] = used.get(replica.pool_id, 0) + replica.gpus
                        self._loading += phase is not ready and phase in ON_ITS_WAY
            self._gpus_in_use = used
        return self._gpus_in_use

    def loading(self) -> int:
        """Replicas of all models on their way to ready; counted with the GPUs."""
        self.gpus_in_use()
        return self._loading

    # -- writing

    def put_model(self, model: ModelState) -> None:
        self.models[model.model_id] = model
        self._changes["model", model.model_id] = model

    def drop_model(self, model_id: str) -> None:
        self.models.pop(model_id, None)
        self._changes["model", model_id] = None
        for starts in [starts for starts in self.starts.values() if starts.model_id == model_id]:
            self.drop_starts(starts)

    def put_pool(self, pool: PoolState) -> None:
        self.pools[pool.pool_id] = pool
        self._changes["pool", pool.pool_id] = pool

    def drop_pool(self, pool_id: str) -> None:
        self.pools.pop(pool_id, None)
        self._changes["pool", pool_id] = None

    def put_gateway(self, gateway: GatewayState) -> None:
        key = gateway_entity_key(gateway.key)
        self.gateways[key] = gateway
        self._changes["gateway", key] = gateway

    def drop_gateway(self, session: GatewaySessionKey) -> None:
        key = gateway_entity_key(session)
        self.gateways.pop(key, None)
        self._changes["gateway", key] = None

    def put_starts(self, starts: StartTimes) -> None:
        key = starts_entity_key(starts.model_id, starts.pool_id)
        self.starts[key] = starts
        self.start_p95_s.clear()
        self._changes["starts", key] = starts

    def drop_starts(self, starts: StartTimes) -> None:
        key = starts_entity_key(starts.model_id, starts.pool_id)
        self.starts.pop(key, None)
        self._changes["starts", key] = None

    def put_replica(self, replica: Replica) -> None:
        own = self._own(replica.model_id)
        if self._gpus_in_use is not None:
            before = own.get(replica.replica_id)
            held = before.gpus if before is not None and before.phase not in ENDED else 0
            holds = replica.gpus if replica.phase not in ENDED else 0
            self._loading += replica.phase in ON_ITS_WAY
            self._loading -= before is not None and before.phase in ON_ITS_WAY
            self._gpus_in_use[replica.pool_id] = self._gpus_in_use.get(replica.pool_id, 0) + holds - held
        own[replica.replica_id] = replica
        self._changes["replica", replica.replica_id] = replica

    def drop_replica(self, replica: Replica) -> None:
        self._own(replica.model_id).pop(replica.replica_id, None)
        self._changes["replica", replica.replica_id] = None

    def _own(self, model_id: str) -> dict[str, Replica]:
        own = self._replicas.get(model_id)
        if own is None:
            own = self._replicas[model_id] = dict(self._base_replicas.get(model_id, {}))
        return own

    def publish(self, replica: Replica) -> Replica:
        """Put the replica's present phase into the registry under a new revision."""
        return self._into_registry(replica, "")

    def withdraw(self, replica: Replica, reason: str) -> Replica:
        """Ask gateways to send it nothing new; its phase says draining, or gone for a tombstone."""
        return self._into_registry(replica, reason)

    def _into_registry(self, replica: Replica, reason: str) -> Replica:
        revision = self.control.revision + 1
        self.control = replace(self.control, revision=revision)
        replica = replace(replica, revision=revision, published=replica.phase not in ENDED)
        self.put_replica(replica)
        record = endpoint_record(replica)
        self.actions.append(Withdraw(record, reason) if reason else Publish(record))
        return replica

    def launch(self, replica: Replica) -> None:
        spec = self.models[replica.model_id].spec
        if spec.gpus != replica.gpus:  # declared anew since the intent was written: what was counted is what is asked
            spec = replace(spec, gpus=replica.gpus)
        self.put_replica(replace(replica, retry_at=self.now + self.limits.effect_patience_s))
        self.actions.append(self._launch_of(replica, spec))

    def rehearse(self, replica: Replica) -> None:
        """Tell what would be launched, and do nothing."""
        self.rehearsals.append(self._launch_of(replica, self.models[replica.model_id].spec))

    def _launch_of(self, replica: Replica, spec: ModelSpec) -> Launch:
        cluster = self.site.cluster
        name = action_id("launch", cluster, replica.model_id, replica.ordinal, replica.generation)
        return Launch(
            name,
            cluster,
            replica.replica_id,
            spec,
            replica.pool_id,
            replica.ordinal,
            replica.generation,
            replica.tier,
        )

    def stop(self, replica: Replica) -> None:
        """Emit the stop that the record already asks for (``stop_mode``); a frozen replica's waits for the thaw."""
        if self.frozen(replica):
            self.put_replica(replace(replica, retry_at=self.now, stop_acknowledged=False))
            return
        mode = replica.stop_mode or StopMode.GRACEFUL
        deadline_at = replica.stop_deadline_at
        if deadline_at is None:
            deadline_at = self.now + self.models[replica.model_id].spec.stop_grace_s
        retry_at = self.now + self.limits.effect_patience_s
        self.put_replica(replace(replica, retry_at=retry_at, stop_deadline_at=deadline_at, stop_acknowledged=False))
        cluster = self.site.cluster
        verb = "stop" if mode is StopMode.GRACEFUL else "kill"
        name = action_id(verb, cluster, replica.model_id, replica.ordinal, replica.generation)
        self.actions.append(
            Stop(name, cluster, replica.replica_id, replica.model_id, replica.pool_id, replica.generation, mode)
        )

    def note_starts(self, count: int) -> None:
        self.control = replace(self.control, starts=self._recent(self.control.starts, count))

    def note_stops(self, count: int) -> None:
        self.control = replace(self.control, stops=self._recent(self.control.stops, count))

    def _recent(self, times: tuple[float, ...], count: int) -> tuple[float, ...]:
        """Bounded by the hourly limits that count them."""
        return (*(at for at in times if self.now < at + 3600.0), *[self.now] * count)

    # -- leaving

    def changes(self, state: BrokerState) -> Changes:
        if self.now != self.last_now or self.control != state.control:
            self._changes["control", ""] = self.control
        return self._changes


def endpoint_record(replica: Replica) -> EndpointRecord:
    """What gateways are told of a replica: ready, draining, or gone."""
    phase = ReplicaPhase.GONE if replica.phase in ENDED else ReplicaPhase.DRAINING
    if replica.phase is ReplicaPhase.READY:
        phase = ReplicaPhase.READY
    return EndpointRecord(
        endpoint_id=replica.replica_id,
        model_id=replica.model_id,
        url=replica.url or "",
        phase=phase,
        generation=replica.generation,
        tier=replica.tier,
        revision=replica.revision,
        not_after=replica.serves_until,
        capabilities=replica.capabilities,
    )
