"""``docs/configuration.md`` and the JSON Schemas for editors, both from the sections of the files."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from broker.app.settings.fields import Called, Section
from broker.app.settings.policies import PoliciesSettings
from broker.app.settings.site import SiteSettings
from broker.app.settings.words import fields_by_alias, kind_of, sections_in
from broker.model.json_schema import DIALECT

_INTRODUCTION: Final = """\
# Configuration

Two files say what a broker does, two more what a simulation asks of it and on which cluster. `site.yaml` is the
cluster: its pools, its limits, and how the broker itself runs.
`policies.yaml` is the models and how they scale; it is read again when it changes. `run`, `simulate` and `demo` read
the same files. `scenario.yaml` is the load of several models, see [traces.md](traces.md); `cluster.yaml` the Slurm
cluster that a site's `slurm` pools are simulated on, see [cluster-model.md](cluster-model.md); `sweep.yaml` which
simulations are compared, see [sweep.md](sweep.md). Commented examples are in `deploy/examples/`. JSON Schemas for
editors are `docs/schemas/site.schema.json`, and `policies.schema.json`, `scenario.schema.json`, `cluster.schema.json`
and `sweep.schema.json` beside it; a file may name its own in its first line:

    # yaml-language-server: $schema=PATH/policies.schema.json

`tidegate policy lint FILE...` names every problem of files of all five kinds with file, line and field, and warns of
what is allowed but seldom meant. Models are held against the pools of a site that is named with them; a sweep is
planned, but not run.

How values are written:

- A duration is `500ms`, `30s`, `5m`, `1h30m`, `7d`, or a number of seconds.
- A size is `500kB`, `20MiB`, or a number of bytes.
- A path starts from the folder of the file that it stands in.
- Text is text: `no`, `on` and `18:00` are not made into something else (the files follow YAML 1.2), and a number is put
  in quotes where text is wanted.
- A field that does not exist, or stands twice, is an error.

Secrets are in neither file. They come from the environment (`TIDEGATE_READ_TOKEN`, `TIDEGATE_OPERATE_TOKEN`,
`TIDEGATE_GATEWAY_TOKEN`, `TIDEGATE_SITE_SECRET`, `TIDEGATE_KAFKA_PASSWORD`) or from files of their own, which
`site.yaml` names.

This page is generated from the code: `make docs`.
"""

_SCALARS: Final = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Path: "path"}


def site_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``site.yaml``."""
    return _json_schema(SiteSettings, "site")


def policies_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``policies.yaml``."""
    return _json_schema(PoliciesSettings, "policies")


def scenario_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``scenario.yaml``."""
    return _json_schema(_simulated_sections()["scenario"], "scenario")


def cluster_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``cluster.yaml``."""
    return _json_schema(_simulated_sections()["cluster"], "cluster")


def sweep_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``sweep.yaml``."""
    return _json_schema(_simulated_sections()["sweep"], "sweep")


def _simulated_sections() -> dict[str, type[Section]]:
    """Imported when they are described: they bring numpy and all of ``traces``, and every command reads the other
    files."""
    from broker.app.settings.cluster import ClusterSettings
    from broker.app.settings.scenario import ScenarioSettings
    from broker.app.settings.sweep import SweepSettings

    return {"scenario": ScenarioSettings, "cluster": ClusterSettings, "sweep": SweepSettings}


def reference_files() -> dict[str, str]:
    """The text of every generated file, by its path below ``docs``."""
    return {
        "configuration.md": configuration_markdown(),
        "schemas/cluster.schema.json": json.dumps(cluster_json_schema(), indent=2) + "\n",
        "schemas/policies.schema.json": json.dumps(policies_json_schema(), indent=2) + "\n",
        "schemas/scenario.schema.json": json.dumps(scenario_json_schema(), indent=2) + "\n",
        "schemas/site.schema.json": json.dumps(site_json_schema(), indent=2) + "\n",
        "schemas/sweep.schema.json": json.dumps(sweep_json_schema(), indent=2) + "\n",
    }


def write_reference(docs: Path) -> None:
    """Write every generated file below ``docs``."""
    for name, text in reference_files().items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def configuration_markdown() -> str:
    """The reference of the files, one table for each section."""
    parts = [_INTRODUCTION]
    simulated = {f"{name}.yaml": section for name, section in _simulated_sections().items()}
    files: dict[str, type[Section]] = {"site.yaml": SiteSettings, "policies.yaml": PoliciesSettings, **simulated}
    for title, section in files.items():
        parts.append(f"## `{title}`\n")
        described: set[type[BaseModel]] = set()
        parts += _chapters(section, "", described)
    return "\n".join(parts)


def _json_schema(section: type[Section], name: str) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:tidegate:{name}.yaml", **section.model_json_schema(by_alias=True)}


def _chapters(section: type[BaseModel], path: str, described: set[type[BaseModel]]) -> list[str]:
    """The section at ``path`` and all below it; one that stands in several places is described at the first."""
    if section in described:
        return []
    described.add(section)
    kind = kind_of(section)
    heading = f"### `{path}`" + (f" with `kind: {kind}`" if kind else "") + "\n\n" if path else ""
    rows = ["| field | value | default | meaning |", "|---|---|---|---|"]
    rows += [_row(name, info) for name, info in fields_by_alias(section).items()]
    words = " ".join((section.__doc__ or "").split())
    chapters = [f"{heading}{words}\n\n" + "\n".join(rows) + "\n"]
    for name, info in fields_by_alias(section).items():
        inside = f"{path}.{name}" if path else name
        for below, suffix in _sections_below(info.annotation):
            chapters += _chapters(below, inside + suffix, described)
    return chapters


def _sections_below(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    """The sections that a field leads to, each with how one gets there from the field's path."""
    if get_origin(annotation) is dict:
        return [(section, f".NAME{suffix}") for section, suffix in _sections_below(get_args(annotation)[1])]
    if get_origin(annotation) is list:
        return [(section, f"[]{suffix}") for section, suffix in _sections_below(get_args(annotation)[0])]
    return [(section, "") for section in sections_in(annotation)]


def _row(name: str, info: FieldInfo) -> str:
    value = _value_words(info.annotation, info.metadata)
    return f"| `{name}` | {value} | {_default_words(info)} | {info.description} |"


def _value_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    called = next((mark.words for mark in metadata if isinstance(mark, Called)), None)
    return (called or _type_words(annotation)) + _bound_words(metadata)


def _type_words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if origin is Annotated:
        return _value_words(parts[0], parts[1:])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if origin is list:
        return f"list of {_type_words(parts[0])}"
    if origin is dict:
        inside = "section" if _sections_below(annotation) else _type_words(parts[1])
        return f"name: {inside}"
    if sections_in(annotation):
        return "section"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(member) for member in parts if member is not type(None))
    raise TypeError(f"the reference has no words for {annotation!r}")


def _bound_words(metadata: Sequence[Any]) -> str:
    words = ""
    for mark in metadata:
        match mark:
            case Ge():
                words += f" ≥ {mark.ge}"
            case Gt():
                words += f" > {mark.gt}"
            case Le():
                words += f" ≤ {mark.le}"
            case Lt():
                words += f" < {mark.lt}"
    return words


def _default_words(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.default
    write = next((mark.write for mark in info.metadata if isinstance(mark, Called)), None)
    if isinstance(default, Section):
        return "as below"
    if isinstance(default, dict) and "kind" in default:
        return f"`kind: {default['kind']}`"
    if default is None or default == {} or default == []:
        return "none"
    if write is not None:
        return f"`{write(default)}`"
    if isinstance(default, list):
        return f"`[{', '.join(str(item) for item in default)}]`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
