"""A large site for the control plane's benchmarks: 500 models with 20 ready replicas each, the shipped threshold rules.

Everything is made from numbers, so that two runs measure the same work.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from broker.app.settings import load_policies
from broker.model.observation import PoolSnapshot, SpecChanged
from broker.model.reading import Freshness, fresh
from broker.model.replica import ObservedReplica, Replica, ReplicaPhase, Tier
from broker.model.signals import Signal
from broker.model.snapshot import ModelSnapshot, ReplicaLoad, WindowNeed, WindowReading
from broker.model.spec import Limits, ModelSpec, PoolSpec, SiteSpec
from broker.model.state import BrokerState, Changes
from policies.registry import cached

MODELS = 500
REPLICAS_EACH = 20
REPLICAS = MODELS * REPLICAS_EACH
POOL = "local"
START_AT = 1_800_000_000.0

_POLICIES = Path(__file__).resolve().parents[1] / "deploy" / "examples" / "policies.yaml"


def shipped_model(*, shadows: bool = False) -> ModelSpec:
    """The first model of the example that operators copy: three threshold rules, one shadow policy of two."""
    shipped = next(model for model in load_policies(_POLICIES) if model.policy.kind == "threshold")
    return shipped if shadows else replace(shipped, shadows={})


def model_specs(example: ModelSpec, *, spare: int = 0) -> tuple[ModelSpec, ...]:
    """The site's models. ``spare``: how many more replicas than now each may have."""
    return tuple(
        replace(example, model_id=f"model-{number:03}", pools=(POOL,), minimum=1, maximum=REPLICAS_EACH + spare)
        for number in range(MODELS)
    )


def spec_changed(models: tuple[ModelSpec, ...], limits: Limits | None = None) -> SpecChanged:
    pool = PoolSpec(POOL, "local", gpus=2 * REPLICAS)
    return SpecChanged(SiteSpec("bench", (pool,), limits=limits or Limits()), models, received_at=START_AT)


def names_of(model_id: str) -> list[str]:
    return [f"{model_id}-{ordinal}-g{ordinal + 1}" for ordinal in range(REPLICAS_EACH)]


def replicas(models: Iterable[ModelSpec], phase: ReplicaPhase = ReplicaPhase.READY) -> Changes:
    """The records of all replicas, ready and published long ago, or still pending."""
    ready = phase is ReplicaPhase.READY
    return {
        ("replica", name): Replica(
            replica_id=name,
            model_id=model.model_id,
            pool_id=POOL,
            ordinal=ordinal,
            generation=ordinal + 1,
            tier=Tier.BASELINE if ordinal == 0 else Tier.ELASTIC,
            gpus=1,
            phase=phase,
            phase_since=START_AT - 600.0,
            requested_at=START_AT - 700.0,
            url=_url(name) if ready else None,
            revision=1 if ready else 0,
            published=ready,
            started_at=START_AT - 690.0 if ready else None,
            ready_at=START_AT - 600.0 if ready else None,
        )
        for model in models
        for ordinal, name in enumerate(names_of(model.model_id))
    }


def with_replicas(state: BrokerState, models: tuple[ModelSpec, ...], phase: ReplicaPhase) -> BrokerState:
    """``state`` (which knows the models) with all their replicas, and every target met."""
    changes = replicas(models, phase)
    targets: Changes = {
        ("model", model.model_id): replace(
            state.models[model.model_id], target=REPLICAS_EACH, next_generation=REPLICAS_EACH + 1
        )
        for model in models
    }
    return state.with_changes({**targets, **changes})


def snapshot(
    model_id: str, sequence: int, at: float, needs: Sequence[WindowNeed], chance: random.Random, *, hot: bool
) -> ModelSnapshot:
    """A second of a model under load; a ``hot`` one has had somebody waiting for too long."""
    age_s = chance.uniform(3.0, 9.0) if hot else chance.uniform(0.0, 0.5)
    running = chance.uniform(10.0, 20.0)
    numbers = {
        Signal.QUEUE_AGE: age_s,
        Signal.REQUESTS_WAITING: 40.0 if hot else 0.0,
        Signal.REQUESTS_RUNNING: running * REPLICAS_EACH,
        Signal.REQUESTS_PER_REPLICA: running + (2.0 if hot else 0.0),
        Signal.KV_CACHE_USE: running / 25.0,
        Signal.ARRIVAL_RATE: running * 2.0,
        Signal.FAILURE_RATE: 0.0,
        Signal.PROMPT_TOKEN_RATE: running * 700.0,
        Signal.GENERATION_TOKEN_RATE: running * 300.0,
        Signal.PREEMPTION_RATE: 0.0,
        Signal.TTFT_P50: 0.2,
        Signal.TTFT_P95: 0.4 + age_s,
        Signal.INTER_TOKEN_P95: 0.03,
        Signal.QUEUE_TIME_P95: age_s,
    }
    windows = tuple(
        WindowReading(need.signal, need.over_s, Freshness.FRESH, True, value * 0.95, value * 1.05, value, at)
        for need in needs
        for value in (numbers[need.signal],)
    )
    loads = tuple(
        ReplicaLoad(name, at - 0.3, running, 2.0 if hot else 0.0, running / 25.0) for name in names_of(model_id)
    )
    readings = {signal: fresh(value, at) for signal, value in numbers.items()}
    return ModelSnapshot(model_id, sequence, at, at, readings, windows, loads)


def needs_of(model: ModelSpec) -> tuple[WindowNeed, ...]:
    """The windows that the model's policy and its shadows ask for."""
    build = cached()
    policies = (model.policy, *model.shadows.values())
    return tuple(dict.fromkeys(need for policy in policies for need in build(policy).needs()))


def listing(
    models: Iterable[ModelSpec], at: float, phase: ReplicaPhase = ReplicaPhase.STARTING, started_at: float | None = None
) -> PoolSnapshot:
    """All replicas as their pool shows them: new objects each time, as from a real listing."""
    shown = tuple(
        ObservedReplica(
            name,
            model.model_id,
            ordinal + 1,
            phase,
            url=None if phase is ReplicaPhase.PENDING else _url(name),
            started_at=started_at,
        )
        for model in models
        for ordinal, name in enumerate(names_of(model.model_id))
    )
    return PoolSnapshot(POOL, at, at, known=True, replicas=shown, gpus_total=2 * REPLICAS)


def _url(name: str) -> str:
    return f"http://{name}.invalid:8000"


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share ``q`` of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]
