"""What is wrong with files of every kind: what ``broker.app.settings.lint`` finds, and what only a simulation reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from broker.app.settings import Lint, SiteSettings
from broker.app.settings import lint as of_broker
from broker.app.settings.cluster import ClusterSettings
from broker.app.settings.document import Document, read_document
from broker.app.settings.linting import in_order
from broker.app.settings.policies import PoliciesSettings
from broker.app.settings.scenario import ScenarioSettings, load_scenario
from broker.app.settings.sweep import SweepSettings
from broker.app.settings.words import fields_by_alias
from broker.model.errors import ConfigError, ConfigErrors
from cli.clusters import read_cluster
from simulator.profiles.document import load_profile

_KINDS: tuple[type[BaseModel], ...] = (PoliciesSettings, SiteSettings, SweepSettings, ScenarioSettings, ClusterSettings)
"""Of a file with as many fields of two kinds, the first of them is meant."""


def lint(*paths: Path) -> Lint:
    """Look at files of any kind, in any order. A cell that its sweep leaves out is a warning."""
    problems: list[ConfigError] = []
    warnings: list[ConfigError] = []
    declared: list[Path] = []
    for path in paths:
        try:
            document = read_document(path)
            kind = _kind_of(document)
            if kind is SweepSettings:
                warnings += _left_out(path)
            elif kind is ScenarioSettings:
                load_scenario(path)
            elif kind is ClusterSettings:
                read_cluster(path)
            else:
                declared.append(path)
                problems += _bad_profiles(document)
        except ConfigErrors as error:
            problems += error.problems
        except ConfigError as error:
            problems.append(error)
    found = of_broker(*declared)
    return Lint(in_order([*problems, *found.problems], paths), in_order([*warnings, *found.warnings], paths))


def _kind_of(document: Document) -> type[BaseModel]:
    names = document.data.keys() if isinstance(document.data, dict) else ()
    return max(_KINDS, key=lambda kind: len(fields_by_alias(kind).keys() & names))


def _left_out(path: Path) -> Iterator[ConfigError]:
    """Raises ``ConfigErrors`` for a sweep that cannot be planned."""
    from cli.sweep_plan import plan_sweep  # brings the whole simulator along, which other files do not need

    plan = plan_sweep(path)
    for cause, count in Counter(failure.cause for failure in plan.failed).items():
        yield ConfigError(f"{count:,} of {len(plan.cells):,} cells cannot be run: {cause}", path=str(path))


def _bad_profiles(document: Document) -> Iterator[ConfigError]:
    """Of the engines that a policies file names, whatever else is wrong with it."""
    models = document.data.get("models") if isinstance(document.data, dict) else None
    for model_id, model in models.items() if isinstance(models, dict) else ():
        match model:
            case {"engine": {"profile": str() as name}}:
                try:
                    load_profile(name)
                except ConfigErrors as error:
                    yield from error.problems
                except ConfigError as error:
                    yield document.problem(("models", model_id, "engine", "profile"), error.problem)
