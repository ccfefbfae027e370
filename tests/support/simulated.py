"""Small simulations: a site with one busy model, an engine that is quickly overloaded, requests as values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from broker.control.decide import Policies
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.spec import EngineSpec, Limits, ModelSpec, PolicySpec, PoolSpec, SiteSpec
from policies.registry import cached
from simulator.checks.level import CheckLevel
from simulator.cluster.pool import SlurmPlace
from simulator.demand import demand_of
from simulator.engine.profile import EngineProfile
from simulator.report.summary import RunSummary
from simulator.simulation import Simulation, SimulationSettings
from traces.schema import TraceRequest

SLOW_ENGINE = EngineProfile(
    name="slow", base_s=0.05, s_per_prefill_token=1e-4, s_per_decode_sequence=1e-3, s_per_kv_token=0.0, max_num_seqs=4,
    max_num_batched_tokens=512, block_size=16, num_blocks=2048, load_time_s=1.5, front_end_s=0.001,
    provenance="Chosen: four sequences at once, so that a handful of requests is an overload.",
)  # fmt: skip
ELASTIC = ModelSpec(
    "chat",
    EngineSpec(("serve",)),
    PolicySpec(
        "threshold",
        {
            "rules": [
                {"name": "queue", "signal": "queue_age_s", "above": 0.5, "for_s": 1.0, "change": 1},
                {"name": "calm", "signal": "requests_per_replica", "below": 3.0, "for_s": 2.0, "change": -1},
            ]
        },
    ),
    minimum=1,
    maximum=4,
    drain_limit_s=60.0,
)
SITE = SiteSpec("simulated", (PoolSpec("pool", "simulated", gpus=6),), limits=Limits(signal_patience_s=4.0))


@dataclass
class SmallRun:
    """One simulation with its log. ``run`` may be called once. ``conditions``: further ``SimulationSettings``."""

    model: ModelSpec = ELASTIC
    warm_up_s: float = 5.0
    tail_s: float = 30.0
    store: MemoryStore = field(default_factory=MemoryStore)
    slurm: Mapping[str, SlurmPlace] = field(default_factory=dict)
    policies: Policies = field(default_factory=cached)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    checks: CheckLevel = CheckLevel.CHEAP

    def __post_init__(self) -> None:
        self.simulation = Simulation(
            SITE, (self.model,), log=MemoryLog(self.store), policies=self.policies,
            settings=SimulationSettings(tail_s=self.tail_s, warm_up_s=self.warm_up_s, **self.conditions),
            profile_of=lambda launch: SLOW_ENGINE,
            slurm=self.slurm,
            checks=self.checks,
        )  # fmt: skip

    @property
    def start_at(self) -> float:
        return self.simulation.settings.start_at

    def run(self, requests: Iterable[TraceRequest], progress: Callable[[float, int], None] | None = None) -> RunSummary:
        return self.simulation.run(demand_of(self.model.model_id, requests), progress=progress)


def small_request(arrival_s: float, prompt_tokens: int = 50, output_tokens: int = 20) -> TraceRequest:
    return TraceRequest(arrival_s, prompt_tokens, output_tokens)


@st.composite
def workloads(draw: st.DrawFn, *, most: int = 60) -> list[TraceRequest]:
    """Bursts and lulls over about a minute, so that replicas come and go."""
    gaps = st.sampled_from((0.0, 0.01, 0.05, 0.1, 0.3, 1.0, 7.0))
    sizes = st.tuples(st.integers(1, 400), st.integers(1, 120))
    arrival_s = 0.0
    requests = []
    for gap, (prompt, output) in draw(st.lists(st.tuples(gaps, sizes), min_size=5, max_size=most)):
        arrival_s += gap
        requests.append(TraceRequest(arrival_s, prompt, output))
    return requests
