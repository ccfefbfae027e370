"""The simulator as a library: a site, its models and their load in, a report with every request's times out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from broker.control.decide import Policies
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.plan import Launch
from broker.model.spec import ModelSpec, SiteSpec
from policies.registry import cached
from simulator.checks.level import CheckLevel
from simulator.checks.saving import saved_on_error
from simulator.cluster.plan import ClusterPlan
from simulator.demand import Demand, demand_by_model, demand_of, demand_of_scenario
from simulator.engine.profile import EngineProfile
from simulator.report.facts import Facts
from simulator.report.late import late_words
from simulator.report.recorder import Recorded, Recorder
from simulator.report.summary import Outcomes, RunSummary, TraceCounts
from simulator.report.unanswered import cut_words, rejected_words
from simulator.simulation import Progress, Simulation, SimulationSettings, profile_of_launch
from simulator.surroundings import Surroundings
from traces.scenario import Scenario
from traces.schema import TraceRequest, replayable

Load = Iterable[TraceRequest] | Mapping[str, Iterable[TraceRequest]] | Scenario


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """``summary`` is what `tidegate simulate` prints; ``requests`` has one row for each request in order of arrival,
    as numpy arrays, whose columns ``model`` and ``tenant`` are indexes of ``models`` and ``tenants`` here. ``recorded``
    is what the replicas did; ``simulator.report.compose.compose`` makes the document of it all."""

    summary: RunSummary
    requests: Outcomes
    models: tuple[str, ...]
    tenants: tuple[str, ...]
    recorded: Recorded

    @staticmethod
    def of(simulation: Simulation, summary: RunSummary, recorded: Recorded) -> Report:
        """The report of a simulation that has run."""
        return Report(summary, simulation.outcomes, simulation.model_ids, simulation.tenants, recorded)

    @property
    def facts(self) -> Facts:
        summary = self.summary
        return Facts(
            self.requests, self.models, self.tenants, self.recorded, summary.decisions, summary.started_at,
            summary.duration_s, queues=summary.queues, batch=summary.batch, cuts=summary.cuts,
            drained_s=summary.drained_s, problems=summary.problems, notes=summary.notes,
        )  # fmt: skip


def run(
    site: SiteSpec, models: tuple[ModelSpec, ...], load: Load, *, seed: int = 1, model_id: str | None = None,
    policies: Policies | None = None, settings: SimulationSettings | None = None,
    profile_of: Callable[[Launch], EngineProfile] = profile_of_launch, cluster: ClusterPlan | None = None,
    checks: CheckLevel = CheckLevel.CHEAP, save_to: Path | None = None, tell: Callable[[str], None] = print,
) -> Report:  # fmt: skip
    """``load`` through the production core: a trace, each model's trace by its name, or a scenario. Requests that
    failed where they were recorded are left out.

    ``model_id``: whom the requests of a single trace ask, the first model if None. ``policies``: makes a model's
    policy, those of the registry if None. ``profile_of`` as for ``Simulation``. ``cluster``: where the site's ``slurm``
    pools are. Everything random is drawn from ``seed``, each part from a stream of its own: the same arguments give the
    same report, and two policies meet the same users, batch jobs, failures and load times.

    ``checks``: which invariants are asked after each step. What was observed before one is broken, or before a policy
    raises for the first time, is saved in the folder ``save_to``, if there is one, and ``tell`` is told where.

    Raises ``TraceError`` and ``ConfigError`` for what cannot be read or is not there, ``InvariantViolated`` for a bug.
    """
    prepared = prepare(
        site, models, _demand(load, models, model_id, seed), seed=seed, policies=policies, settings=settings,
        profile_of=profile_of, cluster=cluster, checks=checks,
    )  # fmt: skip
    with saved_on_error(prepared.simulation, save_to, tell):
        return prepared.carry_out()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A simulation and what is going to be asked of it. Listeners may be added before it is carried out, once."""

    simulation: Simulation
    demand: Demand
    surroundings: Surroundings | None

    def carry_out(
        self, *, trace: TraceCounts | None = None, progress: Progress | None = None,
        stage: Callable[[str], None] | None = None, harm: bool = True,
    ) -> Report:  # fmt: skip
        """``trace`` and ``progress`` as for ``Simulation.run``. ``stage`` is told what begins after the load has ended.
        Without ``harm`` nobody asks what batch jobs suffered, which takes the cluster's time twice more."""
        recorder = Recorder(self.simulation)
        summary = self.simulation.run(self.demand, trace=trace, progress=progress)
        recorded = recorder.recorded()  # before the cluster runs on to the end of its jobs
        outcomes, models = self.simulation.outcomes, self.simulation.model_ids
        late = late_words(recorded, {models[number] for number in np.unique(outcomes.model)})
        rejected = rejected_words(outcomes, models, recorded.profiles)
        summary = replace(summary, notes=(*summary.notes, *late, *rejected, *cut_words(summary.cuts)))
        if self.surroundings is not None:
            queues = self.surroundings.queues(self.simulation)
            # What batch jobs suffered is of a whole load, which a run that was ended early did not have.
            told = stage or (lambda words: None)
            batch = self.surroundings.batch(self.simulation, told) if harm and summary.partial is None else None
            summary = replace(summary, queues=queues, batch=batch)
        return Report.of(self.simulation, summary, recorded)


def prepare(
    site: SiteSpec, models: tuple[ModelSpec, ...], demand: Demand, *, seed: int = 1, policies: Policies | None = None,
    settings: SimulationSettings | None = None, profile_of: Callable[[Launch], EngineProfile] = profile_of_launch,
    cluster: ClusterPlan | None = None, checks: CheckLevel = CheckLevel.CHEAP,
) -> Prepared:  # fmt: skip
    """As ``run``, up to the start."""
    settings = settings or SimulationSettings()
    settings = replace(settings, seed=seed, metrics=settings.metrics or demand.metrics)
    surroundings = None if cluster is None else Surroundings.of(cluster, settings, seed, demand.asked_s())
    simulation = Simulation(
        site, models, log=MemoryLog(MemoryStore(keeps_steps=False)), policies=policies or cached(), settings=settings,
        profile_of=profile_of, slurm=None if surroundings is None else surroundings.places(site, models),
        checks=checks,
    )  # fmt: skip
    return Prepared(simulation, demand, surroundings)


def _demand(load: Load, models: tuple[ModelSpec, ...], model_id: str | None, seed: int) -> Demand:
    if isinstance(load, Scenario):
        return demand_of_scenario(load, seed)
    if isinstance(load, Mapping):
        return demand_by_model({name: replayable(requests) for name, requests in load.items()})
    return demand_of(model_id or models[0].model_id, replayable(load))
