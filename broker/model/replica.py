"""Replicas: what the broker records of each, what an actuator sees of it, and what gateways are told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from broker.model.making import quickly_made
from broker.model.starts import StartPlace


class ReplicaPhase(StrEnum):
    """Where a replica stands in its life.

    REQUESTED: intent written, no receipt yet. PENDING: accepted, waiting for resources (a queued job). STARTING:
    the process runs, its port does not answer. LOADING: it answers, but not yet with the model. READY: proven, and
    published. DRAINING: withdrawn, finishing what it has. STOPPING: told to exit. GONE: exited as wanted. FAILED:
    exited or given up against our will. UNKNOWN: its pool cannot be listed; not the same as gone.
    """

    REQUESTED = "requested"
    PENDING = "pending"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    GONE = "gone"
    FAILED = "failed"
    UNKNOWN = "unknown"


ON_ITS_WAY = frozenset({ReplicaPhase.REQUESTED, ReplicaPhase.PENDING, ReplicaPhase.STARTING, ReplicaPhase.LOADING})
ENDED = frozenset({ReplicaPhase.GONE, ReplicaPhase.FAILED})


class Tier(StrEnum):
    """BASELINE sits on dedicated capacity, ELASTIC on borrowed capacity; elastic is drained first."""

    BASELINE = "baseline"
    ELASTIC = "elastic"


class StopMode(StrEnum):
    """GRACEFUL: SIGTERM and let it finish; KILL: the deadline passed."""

    GRACEFUL = "graceful"
    KILL = "kill"


@quickly_made
@dataclass(frozen=True, slots=True)
class GatewaySessionKey:
    """One run of one gateway: a restarted gateway has a new ``boot_id`` and must acknowledge anew."""

    gateway_id: str
    boot_id: str


GENERATES = ("chat", "completions")
"""What an engine of a text model serves; one of embeddings serves ``embeddings``. Gateways know paths by these."""


@dataclass(frozen=True, slots=True)
class Drain:
    """A withdrawal under way.

    ``awaiting`` are the live gateway sessions that have not applied ``revision`` yet; ``acknowledged_at`` is since when
    there are none.
    ``deadline_at`` is the stated drain limit; what is still in flight then is cut, counted and reported.
    """

    reason: str
    began_at: float
    deadline_at: float
    revision: int
    awaiting: tuple[GatewaySessionKey, ...] = ()
    acknowledged_at: float | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """The broker's record of one replica. ``replica_id`` is also its endpoint id and the pool's name for it.

    ``generation`` never repeats within a model, so a name never means two processes. ``revision`` is the registry
    revision that last changed its endpoint record, 0 if it was never published. ``missing_since``: good listings do
    not show it since then. ``retry_at``: when an effect that nobody answered is tried again. ``failure`` says why it
    was given up, empty while it was not. ``in_flight_at_stop`` is what was still open when it was told to exit: 0
    after a clean drain, the cut requests otherwise. ``adopted``: found in its pool without a record. ``capabilities``
    are those that its model had when it was started. ``not_after`` is when its pool ends it, ``serves_until`` from when
    on it takes nothing new for that; since ``expiring_since`` a successor is wanted in its place. ``start_place`` is
    None where its pool did not tell it. ``runs_as`` is what its pool calls it where it runs, for people (``job 41 on
    n2``).
    """

    replica_id: str
    model_id: str
    pool_id: str
    ordinal: int
    generation: int
    tier: Tier
    gpus: int
    phase: ReplicaPhase
    phase_since: float
    requested_at: float
    url: str | None = None
    not_after: float | None = None
    serves_until: float | None = None
    expiring_since: float | None = None
    revision: int = 0
    published: bool = False
    started_at: float | None = None
    ready_at: float | None = None
    missing_since: float | None = None
    unhealthy_since: float | None = None
    retry_at: float | None = None
    drain: Drain | None = None
    stop_mode: StopMode | None = None
    stop_acknowledged: bool = False
    stop_deadline_at: float | None = None
    in_flight_at_stop: int = 0
    failure: str = ""
    detail: str = ""
    adopted: bool = False
    capabilities: tuple[str, ...] = GENERATES
    start_place: StartPlace | None = None
    runs_as: str = ""


@quickly_made
@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """What a pool's listing says of one replica that is provably ours.

    Actuators report PENDING, STARTING (the process runs), STOPPING, GONE or FAILED: whether it serves the model is
    for a probe to find out. ``not_after`` is the pool's own end of its life (a wall-time limit), of which it has
    ``warned``. ``start_place`` comes with ``url``, where the pool can tell it. ``runs_as`` is empty where the pool has
    no name for it.
    """

    replica_id: str
    model_id: str
    generation: int
    phase: ReplicaPhase
    url: str | None = None
    not_after: float | None = None
    started_at: float | None = None
    exit_code: int | None = None
    detail: str = ""
    start_place: StartPlace | None = None
    warned: bool = False
    runs_as: str = ""


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """What gateways are told of one endpoint. ``phase`` is ready, draining or gone (a tombstone). From ``not_after`` on
    it is sent nothing new, whatever is heard of the broker.

    The key it answers to is not here: gateways derive it (see ``broker.model.identity.endpoint_key``).
    """

    endpoint_id: str
    model_id: str
    url: str
    phase: ReplicaPhase
    generation: int
    tier: Tier
    revision: int
    not_after: float | None = None
    capabilities: tuple[str, ...] = GENERATES
