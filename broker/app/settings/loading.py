"""Files to values: read, check against the sections, tell all problems of a file at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from broker.app.settings.document import Document, read_document
from broker.app.settings.fields import FOLDER, Section
from broker.app.settings.policies import PoliciesSettings
from broker.app.settings.site import SiteSettings
from broker.app.settings.words import choices, problems_of
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.observation import SpecChanged
from broker.model.spec import ModelSpec, SiteSpec
from broker.model.wire import encode

SectionT = TypeVar("SectionT", bound=Section)


def load_site(path: str | Path) -> SiteSettings:
    """``site.yaml``. Raises ``ConfigErrors``."""
    return read_section(SiteSettings, read_document(path))


def load_policies(path: str | Path, site: SiteSettings | None = None) -> tuple[ModelSpec, ...]:
    """``policies.yaml``, its pools checked against ``site``; a model that names none runs in all of the site's.

    Raises ``ConfigErrors``.
    """
    return policies_of(read_document(path), site)


def policies_of(document: Document, site: SiteSettings | None = None) -> tuple[ModelSpec, ...]:
    """``load_policies`` of a file that was read already, or changed since."""
    settings = read_section(PoliciesSettings, document)
    pools = {model_id: model.pools for model_id, model in settings.models.items()}
    if site is not None and (problems := unknown_pools(document, pools, site)):
        raise ConfigErrors(problems)
    known = list(site.pools) if site is not None else []
    return tuple(
        model.model_copy(update={"pools": model.pools or known}).to_spec(model_id)
        for model_id, model in settings.models.items()
    )


def spec_changed(site: SiteSpec, models: Sequence[ModelSpec], received_at: float) -> SpecChanged:
    """The observation by which the core learns of the files. The digest is SHA-256 over what they declare."""
    declared = json.dumps([encode(site), [encode(model) for model in models]], sort_keys=True, separators=(",", ":"))
    return SpecChanged(site, tuple(models), received_at, hashlib.sha256(declared.encode()).hexdigest())


def read_section(section: type[SectionT], document: Document) -> SectionT:
    """Raises ``ConfigErrors`` with all problems of the document by line."""
    try:
        value = section.model_validate(document.data, context={FOLDER: document.path.parent.absolute()})
    except ValidationError as error:
        problems = [*document.problems, *problems_of(document, section, error)]
        raise ConfigErrors(sorted(problems, key=lambda problem: problem.line or 0)) from None
    if document.problems:
        raise ConfigErrors(document.problems)
    return value


def unknown_pools(document: Document, named: Mapping[str, Sequence[str]], site: SiteSettings) -> list[ConfigError]:
    """``named``: the pools of each model."""
    return [
        document.problem(
            ("models", model_id, "pools", index), f"the site has no pool {pool!r}; {choices(pool, site.pools)}"
        )
        for model_id, pools in named.items()
        for index, pool in enumerate(pools)
        if pool not in site.pools
    ]
