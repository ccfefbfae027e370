"""What a step decides: actions, and the trail that says why."""

from __future__ import annotations

from dataclasses import dataclass

from broker.model.making import quickly_made
from broker.model.reading import Freshness
from broker.model.replica import EndpointRecord, StopMode, Tier
from broker.model.spec import Mode, ModelSpec


@dataclass(frozen=True, slots=True)
class Launch:
    """Start one replica. Idempotent by ``action_id``, which is a function of (cluster, model, ordinal, generation)."""

    action_id: str
    cluster: str
    replica_id: str
    model: ModelSpec
    pool_id: str
    ordinal: int
    generation: int
    tier: Tier

    @property
    def model_id(self) -> str:
        return self.model.model_id


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell one replica to exit. ``replica_id`` and ``generation`` name exactly one process or job."""

    action_id: str
    cluster: str
    replica_id: str
    model_id: str
    pool_id: str
    generation: int
    mode: StopMode


@dataclass(frozen=True, slots=True)
class Publish:
    """The registry now tells gateways of this endpoint (or of its new phase)."""

    record: EndpointRecord


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The registry asks gateways to send this endpoint nothing new; ``record.phase`` is draining or gone."""

    record: EndpointRecord
    reason: str


Action = Launch | Stop | Publish | Withdraw
Effect = Launch | Stop


@quickly_made
@dataclass(frozen=True, slots=True)
class Input:
    """One value a recommendation rests on, with the bound it was held against, if any.

    ``statistic`` (``min``, ``max``) of the last ``window_s`` seconds; of the latest value if that is 0.
    ``declared_bound`` is what the policy declares where ``bound`` was projected from it.
    """

    name: str
    value: float | None
    freshness: Freshness
    bound: float | None = None
    statistic: str = ""
    window_s: float = 0.0
    declared_bound: float | None = None


@quickly_made
@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a policy wants: ``target`` replicas, of which ``baseline`` on dedicated capacity.

    ``relative``: the target was counted from the present target (``+1``), so supply on its way is credited against
    it. ``shaped``: the policy does its own hysteresis; ours is off for it, limits stay on. ``valid_until``: when
    it would say something else though nothing is observed (the next line of a schedule).
    """

    target: int
    baseline: int
    code: str
    words: str
    inputs: tuple[Input, ...] = ()
    relative: bool = False
    shaped: bool = False
    hold: bool = False
    horizon_s: float = 0.0
    valid_until: float | None = None


@quickly_made
@dataclass(frozen=True, slots=True)
class DecisionStep:
    """One stage between a raw desire and the final target: the value after it, a reason code, and words."""

    stage: str
    value: int
    code: str
    words: str


@dataclass(frozen=True, slots=True)
class ShadowRecommendation:
    """What a shadow policy would have had as its final target here."""

    name: str
    target: int
    code: str
    words: str


@quickly_made
@dataclass(frozen=True, slots=True)
class Decision:
    """One model's decision at ``now``. ``code`` and ``words`` are those of the step that fixed the final target."""

    model_id: str
    now: float
    mode: Mode
    before: int
    target: int
    baseline: int
    code: str
    words: str
    policy: str
    trail: tuple[DecisionStep, ...]
    inputs: tuple[Input, ...] = ()
    actions: tuple[str, ...] = ()
    shadows: tuple[ShadowRecommendation, ...] = ()


@quickly_made
@dataclass(frozen=True, slots=True)
class Plan:
    """What one step wants done, and why. ``rehearsals`` would be among the actions, were the mode not ``observe``."""

    now: float
    actions: tuple[Action, ...] = ()
    decisions: tuple[Decision, ...] = ()
    rehearsals: tuple[Launch, ...] = ()

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The actions that a pool must carry out; the others are projections, written with the state."""
        return tuple(action for action in self.actions if isinstance(action, Launch | Stop))

    @property
    def registry(self) -> tuple[EndpointRecord, ...]:
        """The changed endpoint records, in the order of their revisions."""
        return tuple(action.record for action in self.actions if isinstance(action, Publish | Withdraw))
