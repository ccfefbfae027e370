"""The simulator as a library: a site, its models and a trace in, a report with every request's times out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from broker.control.decide import Policies
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.plan import Launch
from broker.model.spec import ModelSpec, SiteSpec
from policies.registry import cached
from simulator.cluster.pool import SlurmPlace
from simulator.demand import demand_by_model, demand_of
from simulator.engine.profile import EngineProfile
from simulator.report.summary import Outcomes, RunSummary
from simulator.simulation import Simulation, SimulationSettings, profile_of_launch
from traces.schema import TraceRequest, replayable


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """``summary`` is what `tidegate simulate` prints; ``requests`` has one row for each request in order of arrival,
    as numpy arrays, whose columns ``model`` and ``tenant`` are indexes of ``models`` and ``tenants`` here."""

    summary: RunSummary
    requests: Outcomes
    models: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()

    @staticmethod
    def of(simulation: Simulation, summary: RunSummary) -> Report:
        """The report of a simulation that has run."""
        return Report(summary, simulation.outcomes, simulation.model_ids, simulation.tenants)


def run(
    site: SiteSpec, models: tuple[ModelSpec, ...],
    trace: Iterable[TraceRequest] | Mapping[str, Iterable[TraceRequest]], *, model_id: str | None = None,
    policies: Policies | None = None, settings: SimulationSettings | None = None,
    profile_of: Callable[[Launch], EngineProfile] = profile_of_launch, slurm: Mapping[str, SlurmPlace] | None = None,
) -> Report:  # fmt: skip
    """Replay ``trace``, or each model's trace by its name, through the production core; requests that failed where they
    were recorded are left out.

    ``model_id``: whom the requests of a single trace ask, the first model if None. ``policies``: makes a model's
    policy, those of the registry if None. ``profile_of`` and ``slurm`` as for ``Simulation``. Nothing is drawn here:
    the same arguments give the same report, and what is random (a generated trace, a scaled one, cold starts) has its
    seed where it is made.

    Raises ``TraceError`` and ``ConfigError`` for what cannot be read or is not there, ``InvariantViolated`` for a bug.
    """
    if isinstance(trace, Mapping):
        demand = demand_by_model({name: replayable(requests) for name, requests in trace.items()})
    else:
        demand = demand_of(model_id or models[0].model_id, replayable(trace))
    simulation = Simulation(
        site, models, log=MemoryLog(MemoryStore(keeps_steps=False)), policies=policies or cached(), settings=settings,
        profile_of=profile_of, slurm=slurm,
    )  # fmt: skip
    return Report.of(simulation, simulation.run(demand))
