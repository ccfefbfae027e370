"""The settings that a sweep tries of its policies files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from broker.app.settings.document import Document, Location, dotted, read_document
from broker.app.settings.loading import policies_of
from broker.app.settings.parameters import located, with_value
from broker.app.settings.site import SiteSettings
from broker.app.settings.sweep import (
    RUN,
    ChoiceValues,
    LogUniformValues,
    RunSettings,
    SweepPolicy,
    UniformValues,
    run_settings,
)
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.spec import ModelSpec, ServiceObjective
from cli.placing import model_id_of
from cli.sweep_keys import Inputs
from simulator.profiles.document import load_profile, profile_path
from simulator.sweep.cells import Candidate
from simulator.sweep.design import Between, Choice, Distribution, Search, Setting, Settings
from simulator.sweep.inputs import InputFile

MOST_SETTINGS = 1_000_000


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with what its policies file then says: ``models``, or why it is refused. ``run``: under what it runs.
    ``profiles``: the files that its engines name; those of the catalogue are code."""

    candidate: Candidate
    run: RunSettings
    data: Any
    models: tuple[ModelSpec, ...] = ()
    model_id: str = ""
    cause: str = ""
    profiles: tuple[InputFile, ...] = ()


def tries(name: str, policy: SweepPolicy, site: SiteSettings | None, sweep: Document) -> Iterator[Tried]:
    """All settings of one policy. Raises ``ConfigErrors`` for a path that leads nowhere, in ``sweep``'s lines."""
    document = read_document(policy.file)
    model_id = model_id_of(policies_of(document, site), policy.model)  # the file as it stands must be a good one
    search = Search(
        policy.grid, {path: _distribution(values) for path, values in policy.random.items()}, policy.samples or 1,
        policy.draw_seed,
    )  # fmt: skip
    if len(search) > MOST_SETTINGS:
        raise ConfigErrors([sweep.problem(("policies", name), f"these are {len(search):,} settings; take fewer")])
    places = {path: ("policies", name, "grid" if path in policy.grid else "random", path) for path in search.paths}
    for settings in search.settings():
        candidate = Candidate(name, settings, policy.knob)
        run = _run(settings, sweep, places)
        of_file = [setting for setting in settings if not setting.path.startswith(RUN)]
        changed = document
        for setting in of_file:
            try:
                changed = with_value(changed, setting.path, setting.value)
            except ConfigError as error:
                words = f"{policy.file.name}: {error.problem}"
                raise ConfigErrors([sweep.problem(places[setting.path], words)]) from None
        try:
            yield Tried(candidate, run, changed.data, policies_of(changed, site), model_id)
        except ConfigErrors as error:
            _refuse_unknown(error, of_file, changed, sweep, places)
            yield Tried(candidate, run, changed.data, (), model_id, str(error))


def _run(settings: Settings, sweep: Document, places: Mapping[str, Location]) -> RunSettings:
    """The values are of the sweep's own file: a wrong one is told before anything runs."""
    varied = {setting.path: setting.value for setting in settings if setting.path.startswith(RUN)}
    try:
        return run_settings(sweep, varied)
    except ConfigErrors as error:
        raise ConfigErrors(
            [sweep.problem(places[problem.field or ""], problem.problem) for problem in error.problems]
        ) from None


def _refuse_unknown(
    error: ConfigErrors, settings: Sequence[Setting], changed: Document, sweep: Document, places: Mapping[str, Location]
) -> None:
    """A path that names no field is a mistake of the sweep's file, not of one of its cells."""
    for problem in error.problems:
        for setting in settings:
            place = dotted(located(changed.data, setting.path))
            if problem.problem.startswith("unknown field") and place.startswith(problem.field or ""):
                raise ConfigErrors([sweep.problem(places[setting.path], problem.problem)]) from None


def _distribution(values: UniformValues | LogUniformValues | ChoiceValues) -> Distribution:
    if isinstance(values, ChoiceValues):
        return Choice(tuple(values.values))
    return Between(values.from_, values.to, isinstance(values, LogUniformValues), values.whole)


def with_profiles(tried: Tried, inputs: Inputs) -> Tried:
    """A profile that cannot be read, or is none of the catalogue's, fails the cells that need it, and no others."""
    named = [model.engine.profile for model in tried.models if model.engine.profile is not None]
    paths = [path for name in named if (path := profile_path(name)) is not None]
    try:
        tried = replace(tried, profiles=tuple(inputs.file(path) for path in paths))
        for name in named:
            load_profile(name)
    except ConfigError as error:
        return replace(tried, cause=str(error))
    return tried


def judged_by(tried: Tried, objective: ServiceObjective) -> Tried:
    return replace(tried, models=tuple(replace(model, slo=objective) for model in tried.models))
