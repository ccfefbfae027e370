"""What is wrong with the files, and what is allowed but seldom meant."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from actuators.slurm.script import script_problem
from broker.app.settings.document import Document, Location, read_document
from broker.app.settings.fields import Duration, Section
from broker.app.settings.kafka import KafkaLog
from broker.app.settings.loading import SectionT, read_section, unknown_pools
from broker.app.settings.policies import (
    AtLeastOne,
    Bounds,
    Count,
    ModelSettings,
    PoliciesSettings,
    PolicySettings,
    ScheduleEntry,
    SchedulePolicy,
    ThresholdPolicy,
)
from broker.app.settings.secrets import as_seen_here, how_to_make, secret_files
from broker.app.settings.site import MemoryLog, SiteSettings
from broker.app.settings.slurm import SlurmPool
from broker.app.settings.words import fields_by_alias
from broker.model.addresses import is_loopback
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.replica import Tier
from broker.model.spec import Mode
from broker.model.units import format_duration

Warnings = Iterator[tuple[Location, str]]


@dataclass(frozen=True, slots=True)
class Lint:
    """``problems`` keep the broker, or a simulation, from starting; ``warnings`` do not."""

    problems: tuple[ConfigError, ...] = ()
    warnings: tuple[ConfigError, ...] = ()


def lint(*paths: Path) -> Lint:
    """Look at site and policy files, in any order; a file with ``models``, or with no field of a site, holds policies.

    Models are held against the site's pools if the site is among the files and has no problem itself, whatever else is
    wrong with them.
    """
    problems: list[ConfigError] = []
    warnings: list[ConfigError] = []
    policies: list[tuple[Document, PoliciesSettings | None]] = []
    site: SiteSettings | None = None
    for path in paths:
        try:
            document = read_document(path)
        except ConfigErrors as error:
            problems += error.problems
            continue
        if _holds_policies(document.data):
            policies.append((document, _read(PoliciesSettings, document, problems)))
        elif (site := _read(SiteSettings, document, problems)) is not None:
            warnings += [document.problem(*warning) for warning in _of_site(site)]
            problems += _bad_scripts(document, site)
    for document, settings in policies:
        if site is not None:
            placed = _placed(document)
            problems += unknown_pools(document, {model_id: model.pools for model_id, model in placed.items()}, site)
            for model_id, model in placed.items():
                warnings += [document.problem(("models", model_id, *at), words) for at, words in _of_fit(model, site)]
        if settings is not None:
            warnings += [document.problem(*warning) for warning in _of_policies(settings)]
    return Lint(in_order(problems, paths), in_order(warnings, paths))


def in_order(found: Iterable[ConfigError], paths: Sequence[Path]) -> tuple[ConfigError, ...]:
    """By file and line; what is of a file that these name comes last."""
    places = {str(path): place for place, path in enumerate(paths)}
    return tuple(
        sorted(found, key=lambda one: (places.get(one.path or "", len(places)), one.path or "", one.line or 0))
    )


def _read(section: type[SectionT], document: Document, problems: list[ConfigError]) -> SectionT | None:
    """None for a document with problems, which are noted."""
    try:
        return read_section(section, document)
    except ConfigErrors as error:
        problems += error.problems
        return None


def _bad_scripts(document: Document, site: SiteSettings) -> Iterator[ConfigError]:
    for pool_id, pool in site.pools.items():
        if isinstance(pool, SlurmPool) and pool.job and (error := script_problem(pool.to_spec(pool_id))):
            yield document.problem(tuple((error.field or "").split(".")), error.problem)


class _Placed(Section, extra="ignore"):
    """What says where a model runs, read alone: a mistake elsewhere in the model must not hide one here."""

    gpus: AtLeastOne = ModelSettings.model_fields["gpus"].default
    maximum: Count = Field(alias="max", default=ModelSettings.model_fields["maximum"].default)
    drain_limit_s: Duration = ModelSettings.model_fields["drain_limit_s"].default
    pools: list[str] = Field(default=[])


def _placed(document: Document) -> dict[str, _Placed]:
    """By model; without those whose place is no good itself."""
    found = {}
    models = document.data.get("models") if isinstance(document.data, dict) else None
    for model_id, model in models.items() if isinstance(models, dict) else ():
        with suppress(ValidationError):
            found[model_id] = _Placed.model_validate(model)
    return found


_NO_MODELS = "no model is declared: a broker that reads this drains and stops every replica"


def _holds_policies(data: object) -> bool:
    """Also with ``models`` misspelt, which is then told as such and not as a site without all its fields."""
    return (
        isinstance(data, dict) and bool(data) and ("models" in data or not data.keys() & fields_by_alias(SiteSettings))
    )


def _of_site(site: SiteSettings) -> Warnings:
    if not is_loopback(site.api.host):
        yield ("api", "host"), f"{site.api.host} can be reached by others, and tokens travel in the clear"
    if site.mode is Mode.ACT and isinstance(site.log, MemoryLog):
        yield ("log", "kind"), "after a restart the broker will not know what it started; use sqlite"
    if isinstance(site.log, KafkaLog) and site.log.sasl and site.log.sasl.mechanism == "PLAIN" and not site.log.tls:
        yield ("log", "sasl", "mechanism"), "the password travels in the clear; set log.tls, or use SCRAM-SHA-512"
    if site.limits.signal_patience_s < 3 * site.scrape.interval_s:
        yield ("limits", "signal_patience"), "is less than three scrape intervals: one lost scrape makes signals stale"
    if not any(Tier.BASELINE in pool.tiers for pool in site.pools.values()):
        yield ("pools",), "no pool takes the baseline tier, so no model can have its min"
    for name, path in secret_files(site).items():
        at: Location = ("secret_file",) if name == "site_secret" else ("api", f"{name}_file")
        if path is None:
            continue
        if not path.exists():
            yield at, f"{as_seen_here(path)} does not exist yet; {how_to_make(path)}"
        elif path.stat().st_mode & stat.S_IROTH:
            yield at, f"{as_seen_here(path)} can be read by every user of this machine; chmod 600 it"


def _of_policies(settings: PoliciesSettings) -> Warnings:
    if not settings.models:
        yield ("models",), _NO_MODELS
    for model_id, model in settings.models.items():
        for at, words in _of_model(model):
            yield ("models", model_id, *at), words


def _of_model(model: ModelSettings) -> Warnings:
    reachable = [*model.engine.command, *model.engine.environment.values()]
    if not any("{port}" in text for text in reachable):
        yield ("engine", "command"), "has no {port}: the engine will not listen where the broker looks for it"
    if model.policy is not None and model.minimum == model.maximum:
        yield ("policy",), f"min and max are both {model.minimum}, so the policy decides nothing"
    if isinstance(model.policy, ThresholdPolicy) and "stabilisation" in model.model_fields_set:
        yield ("stabilisation",), "does nothing with threshold, whose rules have their own for"
    policies: dict[Location, PolicySettings] = {("shadows", name): shadow for name, shadow in model.shadows.items()}
    if model.policy is not None:
        policies[("policy",)] = model.policy
    for at, policy in policies.items():
        for inside, words in _of_policy(policy, model):
            yield (*at, *inside), words


def _of_policy(policy: PolicySettings, model: ModelSettings) -> Warnings:
    match policy:
        case ThresholdPolicy():
            yield from _of_threshold(policy)
        case SchedulePolicy():
            yield from _of_schedule(policy, model)
            if policy.within is not None:
                for inside, words in _of_policy(policy.within, model):
                    yield ("within", *inside), words


def _of_threshold(policy: ThresholdPolicy) -> Warnings:
    if not any(rule.change < 0 for rule in policy.rules):
        yield ("rules",), "no rule removes replicas: what a peak has added stays for ever"
    if not any(rule.change > 0 for rule in policy.rules):
        yield ("rules",), "no rule adds replicas: the model stays at its min"
    for index, rule in enumerate(policy.rules):
        if rule.change < 0 and rule.for_s == 0:
            yield ("rules", index), "removes replicas at the first quiet moment; give it a for, such as 5m"


def _of_schedule(policy: SchedulePolicy, model: ModelSettings) -> Warnings:
    lines: dict[Location, Bounds | ScheduleEntry] = {("default",): policy.default}
    lines |= {("entries", index): entry for index, entry in enumerate(policy.entries)}
    for at, line in lines.items():
        floor, ceiling = line.floor, line.ceiling
        if floor is not None and floor > model.maximum:
            yield (*at, "floor"), f"{floor} is more than the model's max, which is {model.maximum} and wins"
        if ceiling is not None and ceiling < model.minimum:
            yield (*at, "ceiling"), f"{ceiling} is less than the model's min, which is {model.minimum} and wins"
    if not policy.entries and policy.within is None and model.policy is policy:
        yield ("entries",), "a schedule without entries and without a policy within it decides nothing"


def _of_fit(model: _Placed, site: SiteSettings) -> Warnings:
    pools = {name: pool for name, pool in site.pools.items() if not model.pools or name in model.pools}
    fitting = sum(pool.gpus // model.gpus for pool in pools.values())
    if model.maximum > fitting:
        yield ("max",), f"{model.maximum} replicas of {model.gpus} GPUs do not fit: its pools have room for {fitting}"
    nodes = {name: pool.gpus_per_node for name, pool in pools.items() if isinstance(pool, SlurmPool)}
    small = [f"{name}: {gpus}" for name, gpus in nodes.items() if gpus is not None and gpus < model.gpus]
    if small and model.maximum:
        yield (
            ("gpus",),
            f"{model.gpus} are more than one node has ({', '.join(small)}): a simulation takes several, and no replica "
            "can be run there yet",
        )
    reserved_s = model.drain_limit_s + site.limits.renewal.margin_s
    lives = {name: pool.time_limit_s for name, pool in pools.items() if isinstance(pool, SlurmPool)}
    short = [f"{name}: {format_duration(life_s)}" for name, life_s in lives.items() if life_s < 4.0 * reserved_s]
    if short and model.maximum:
        yield (
            ("drain_limit",),
            f"takes {format_duration(reserved_s)} with limits.renewal.margin, more than a quarter of a job's wall time "
            f"({', '.join(short)}): no more is kept free to drain, and what takes longer may be cut at the job's end",
        )
