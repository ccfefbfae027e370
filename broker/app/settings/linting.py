"""What is wrong with the files, and what is allowed but seldom meant."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.app.settings.document import Document, Location, read_document
from broker.app.settings.loading import read_section, unknown_pools
from broker.app.settings.policies import (
    Bounds,
    ModelSettings,
    PoliciesSettings,
    PolicySettings,
    ScheduleEntry,
    SchedulePolicy,
    ThresholdPolicy,
)
from broker.app.settings.secrets import as_seen_here, how_to_make, secret_files
from broker.app.settings.site import MemoryLog, SiteSettings
from broker.app.settings.words import fields_by_alias
from broker.model.addresses import is_loopback
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.replica import Tier
from broker.model.spec import Mode

Warnings = Iterator[tuple[Location, str]]


@dataclass(frozen=True, slots=True)
class Lint:
    """``problems`` keep the broker from starting, ``warnings`` do not."""

    problems: tuple[ConfigError, ...] = ()
    warnings: tuple[ConfigError, ...] = ()


def lint(*paths: Path) -> Lint:
    """Look at site and policy files, in any order; a file with ``models``, or with no field of a site, holds policies.

    Policies are held against the site's pools if the site is among the files and has no problem itself.
    """
    problems: list[ConfigError] = []
    warnings: list[ConfigError] = []
    policies: list[tuple[Document, PoliciesSettings]] = []
    site: SiteSettings | None = None
    for path in paths:
        try:
            document = read_document(path)
            if _holds_policies(document.data):
                policies.append((document, read_section(PoliciesSettings, document)))
            else:
                site = read_section(SiteSettings, document)
                warnings += [document.problem(*warning) for warning in _of_site(site)]
        except ConfigErrors as error:
            problems += error.problems
    for document, settings in policies:
        problems += unknown_pools(document, settings, site) if site is not None else []
        if not settings.models:
            warnings.append(document.problem(("models",), _NO_MODELS))
        for model_id, model in settings.models.items():
            found = [*_of_model(model), *(_of_fit(model, site) if site is not None else ())]
            warnings += [document.problem(("models", model_id, *at), words) for at, words in found]
    return Lint(tuple(problems), tuple(sorted(warnings, key=lambda warning: (warning.path or "", warning.line or 0))))


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


def _of_fit(model: ModelSettings, site: SiteSettings) -> Warnings:
    pools = [pool for name, pool in site.pools.items() if not model.pools or name in model.pools]
    fitting = sum(pool.gpus // model.gpus for pool in pools)
    if model.maximum > fitting:
        yield ("max",), f"{model.maximum} replicas of {model.gpus} GPUs do not fit: its pools have room for {fitting}"
