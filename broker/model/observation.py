"""Everything that ``step`` may learn. Only these reach the state; an action's outcome comes back as one too.

``observed_at`` is the source's clock, ``received_at`` the log's: ages use the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from broker.model.making import quickly_made
from broker.model.replica import ObservedReplica
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import ModelSpec, SiteSpec


@quickly_made
@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One listing of one pool. ``known`` False means that the listing failed: ``replicas`` then says nothing, and
    above all not that there are none (``error`` says why).

    ``missing`` None: ``replicas`` is all that the pool showed. Else it is only what was not on record as shown, and
    ``missing`` are the ids on record that the pool did not show (see ``broker.control.listing``).
    """

    pool_id: str
    observed_at: float
    received_at: float
    known: bool
    replicas: tuple[ObservedReplica, ...] = ()
    gpus_total: int | None = None
    error: str = ""
    missing: tuple[str, ...] | None = None


class Outcome(StrEnum):
    """What a pool answered to an action."""

    ACCEPTED = "accepted"
    TRANSIENT = "transient"
    NO_CAPACITY = "no_capacity"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The pool's answer to one action. ``retry_after_s`` goes with TRANSIENT; stopping what is gone is ACCEPTED."""

    action_id: str
    replica_id: str
    model_id: str
    outcome: Outcome
    observed_at: float
    received_at: float
    retry_after_s: float = 0.0
    url: str | None = None
    detail: str = ""


class ProbeVerdict(StrEnum):
    """What asking a replica for its model and key said. UNREACHABLE: no answer (yet). LOADING: it answers, the
    model does not. WRONG: another model, another key, or no key asked for: never to be published."""

    READY = "ready"
    LOADING = "loading"
    UNREACHABLE = "unreachable"
    WRONG = "wrong"


@quickly_made
@dataclass(frozen=True, slots=True)
class Probe:
    """One look at one replica's API with its own key."""

    replica_id: str
    model_id: str
    verdict: ProbeVerdict
    observed_at: float
    received_at: float
    detail: str = ""


@quickly_made
@dataclass(frozen=True, slots=True)
class GatewayReport:
    """A gateway session's heartbeat: the registry revision it has applied, what it has open by endpoint.

    ``closed`` ends the session at once (the gateway shut down in order).
    """

    gateway_id: str
    boot_id: str
    sequence: int
    applied_revision: int
    observed_at: float
    received_at: float
    in_flight: Mapping[str, int] = field(default_factory=dict)
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's word over the policy: ``target`` exactly, or None to hold the present one, until ``until``."""

    model_id: str
    author: str
    because: str
    received_at: float
    until: float
    target: int | None = None


@dataclass(frozen=True, slots=True)
class OverrideCleared:
    """The operator takes an override back before its time."""

    model_id: str
    author: str
    received_at: float


class PauseScope(StrEnum):
    ALL = "all"
    POOL = "pool"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class PauseChanged:
    """Freeze (or thaw) starts and stops; what serves keeps serving. ``name`` is empty for scope ALL."""

    scope: PauseScope
    name: str
    paused: bool
    author: str
    because: str
    received_at: float


@dataclass(frozen=True, slots=True)
class SpecChanged:
    """The declared site and models, whole: a model that is no longer here is drained to nothing."""

    site: SiteSpec
    models: tuple[ModelSpec, ...]
    received_at: float
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LeadershipTaken:
    """A new term of leadership began: effects that were written but never answered are tried again at once."""

    epoch: int
    holder: str
    received_at: float


@dataclass(frozen=True, slots=True)
class LogsTaken:
    """This log answers for what was begun by these: its own id, which is random and given once, and those of logs that
    were lost and whose jobs were taken back."""

    log_ids: tuple[str, ...]
    received_at: float


Observation = (
    ModelSnapshot
    | PoolSnapshot
    | Receipt
    | Probe
    | GatewayReport
    | Override
    | OverrideCleared
    | PauseChanged
    | SpecChanged
    | LeadershipTaken
    | LogsTaken
)
