"""What the operator declares: the site, its pools, its limits, the models and their policies.

Plain values; ``broker.app.settings`` reads them from YAML with line numbers for errors. ``SiteSpec`` and the models
travel in ``SpecChanged`` observations, so that a log replays without the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from broker.model.replica import GENERATES, Tier

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


class Mode(StrEnum):
    """OBSERVE computes, records and explains, and touches nothing; ACT acts."""

    OBSERVE = "observe"
    ACT = "act"


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Which policy, with which parameters; ``policies.registry.build`` turns it into a ``Policy``."""

    kind: str
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)


PLACEHOLDERS = ("python", "host", "port", "model", "replica")
"""What may stand in braces in an engine's command; ``{python}`` is the broker's own interpreter."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How one replica is started. ``command`` is an argument list in which ``{python}``, ``{host}``, ``{port}``,
    ``{model}`` and ``{replica}`` are replaced; the API key comes by environment (``VLLM_API_KEY``), never by command
    line."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class StabilisationSpec:
    """Hysteresis for policies that do not shape themselves. All conditions count time, none counts ticks."""

    scale_out_s: float = 0.0
    scale_in_s: float = 60.0
    max_step_out: int = 4
    max_step_in: int = 1


@dataclass(frozen=True, slots=True)
class LongerPrompts:
    """Prompts of more than ``over_tokens`` tokens have this limit for their first token."""

    over_tokens: int
    first_token_s: float


@dataclass(frozen=True, slots=True)
class ServiceObjective:
    """What a model's users are promised, at the gateway: the first token within ``first_token_s`` of the arrival, and
    ``per_token_s`` on average for each token after it. ``longer_prompts`` by rising length replace the first."""

    first_token_s: float = 2.0
    per_token_s: float = 0.1
    longer_prompts: tuple[LongerPrompts, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as served to users under ``model_id``. Reports judge runs by ``slo``; it decides nothing by itself."""

    model_id: str
    engine: EngineSpec
    policy: PolicySpec
    minimum: int = 1
    maximum: int = 1
    gpus: int = 1
    pools: tuple[str, ...] = ()
    load_timeout_s: float = 1800.0
    drain_limit_s: float = 600.0
    stop_grace_s: float = 30.0
    capabilities: tuple[str, ...] = GENERATES
    stabilisation: StabilisationSpec = StabilisationSpec()
    shadows: Mapping[str, PolicySpec] = field(default_factory=dict)
    slo: ServiceObjective = ServiceObjective()


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Capacity of one kind. ``tiers`` says which replicas it takes; ``options`` belong to its actuator."""

    pool_id: str
    kind: str
    gpus: int
    tiers: tuple[Tier, ...] = (Tier.BASELINE, Tier.ELASTIC)
    options: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """After ``failures`` failed starts in a row no start for ``open_s``, then one at a time until one succeeds; if it
    fails, none for twice as long, up to ``max_open_s``."""

    failures: int = 3
    open_s: float = 60.0
    max_open_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class RenewalSpec:
    """How replicas that their pool will end are succeeded: no new requests from ``margin_s`` and the drain limit before
    that end, and a successor asked for as long before as queueing and loading mostly take. ``queue_prior_s`` and
    ``load_prior_s`` stand for those until enough was seen."""

    margin_s: float = 120.0
    queue_prior_s: float = 900.0
    load_prior_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds after every policy. Rates are per whole cluster, counted over sliding minutes and hours.

    ``snapshot_interval_s``: how often a model of which nothing pressing is heard is looked at and decided anew.
    """

    starts_per_minute: int = 20
    starts_per_hour: int = 200
    stops_per_minute: int = 20
    stops_per_hour: int = 200
    concurrent_loads: int = 10
    pool_share: float = 1.0
    snapshot_interval_s: float = 1.0
    signal_patience_s: float = 15.0
    pool_patience_s: float = 15.0
    gateway_session_s: float = 5.0
    unhealthy_after_s: float = 1.5
    effect_patience_s: float = 15.0
    full_pool_s: float = 30.0
    ended_kept_s: float = 600.0
    breaker: BreakerSpec = BreakerSpec()
    renewal: RenewalSpec = RenewalSpec()


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """The cluster, its pools and limits: ``site.yaml``."""

    cluster: str
    pools: tuple[PoolSpec, ...]
    mode: Mode = Mode.ACT
    limits: Limits = Limits()
    options: Mapping[str, JsonValue] = field(default_factory=dict)
