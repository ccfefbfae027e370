"""What a change of a schema breaks: what readers by one schema cannot read of what is written by another.

For the schemas that ``broker.model.json_schema`` makes, and no others. Readers ignore fields that they do not know.

python -m tests.support.schema_changes

keeps today's schemas as those of a release.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.model.json_schema import PUBLISHED, Schema, schema_of
from tests.support.command_line import ROOT

RELEASED = ROOT / "tests" / "released_schemas.json"
FOLDER = "docs/schemas"
_VERSIONED = re.compile(r"urn:tidegate:[a-z_]+:([0-9]+)")

Schemas = Mapping[str, Schema]
"""By the schemas' names."""


@dataclass(frozen=True, slots=True)
class Break:
    """``added``: by a word (of an enum, of a union) that only the writer knows; messages without it are read."""

    place: str
    problem: str
    added: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


def breaks(written: Schema, read: Schema) -> list[Break]:
    """What readers by ``read`` cannot read of what is written by ``written``, each place once."""
    return list(dict.fromkeys(_Comparison(written["$defs"], read["$defs"]).of(written["title"], written, read)))


def version_of(schema: Schema) -> int:
    """The number that its ``$id`` ends with."""
    return int(schema["$id"].rpartition(":")[2])


def schemas_of_today() -> Schemas:
    return {schema["title"]: schema for schema in map(schema_of, PUBLISHED)}


def schemas_of_baseline() -> Schemas:
    """Those of the release that was kept last."""
    kept = json.loads(RELEASED.read_text(encoding="utf-8"))
    return {name: {**schema, "$defs": kept["$defs"]} for name, schema in kept["schemas"].items()}


def last_tag() -> str | None:
    """None where there is none, or no git."""
    try:
        told = subprocess.run(
            ["git", "describe", "--tags", "--abbrev=0"], cwd=ROOT, capture_output=True, text=True, timeout=20,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return told.stdout.strip() or None


def schemas_of_tag(tag: str) -> Schemas:
    """Those that the tagged commit published."""
    packed = subprocess.run(["git", "archive", tag, FOLDER], cwd=ROOT, capture_output=True, timeout=20, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        files = [file for member in archive.getmembers() if (file := archive.extractfile(member)) is not None]
        schemas = [json.load(file) for file in files]
    return {schema["title"]: schema for schema in schemas if _VERSIONED.fullmatch(schema["$id"])}


def keep(path: Path) -> None:
    """Today's schemas, without words for people, each definition once."""
    release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    schemas, definitions = dict[str, Schema](), dict[str, Schema]()
    for name, schema in schemas_of_today().items():
        bare = _without_words(schema)
        definitions |= bare.pop("$defs")
        schemas[name] = bare
    sections = {"schemas": schemas, "$defs": definitions}
    lines = [f'{{"release": {json.dumps(release)}']
    for title, section in sections.items():
        entries = ",\n".join(f"  {json.dumps(name)}: {json.dumps(section[name])}" for name in sorted(section))
        lines.append(f",\n{json.dumps(title)}: {{\n{entries}\n}}")
    path.write_text("".join([*lines, "}\n"]), encoding="utf-8")


def _without_words(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            name: _without_words(value)
            for name, value in part.items()
            if not (name == "description" and isinstance(value, str))
        }
    return [_without_words(item) for item in part] if isinstance(part, list) else part


class _Comparison:
    """``written`` and ``read`` are the definitions of either side."""

    def __init__(self, written: Mapping[str, Schema], read: Mapping[str, Schema]) -> None:
        self._written = written
        self._read = read
        self._seen: set[tuple[str, str]] = set()

    def of(self, place: str, written: Schema, read: Schema) -> Iterator[Break]:
        readers = _alternatives(read, self._read)
        for shape in _alternatives(written, self._written):
            if any(reader.kind == "anything" for reader in readers):
                continue
            reader = next((reader for reader in readers if shape.fits(reader)), None)
            if reader is not None:
                yield from self._same_kind(place, shape, reader)
            elif shape.tag and any(reader.tag for reader in readers):
                yield Break(place, f"the alternative {shape.tag} is not known", added=True)
            else:
                kinds = " or ".join(sorted({reader.kind for reader in readers}))
                yield Break(place, f"{shape.kind} where {kinds} is read")

    def _same_kind(self, place: str, written: _Shape, read: _Shape) -> Iterator[Break]:
        if written.name:
            if (written.name, read.name) in self._seen:
                return
            self._seen.add((written.name, read.name))
            place = written.name
        match written.kind:
            case "enum" if read.kind == "enum":
                for member in written.schema["enum"]:
                    if member not in read.schema["enum"]:
                        yield Break(place, f"the member {member!r} is not known", added=True)
            case "record" | "tagged":
                yield from self._record(place, written.schema, read.schema)
            case "map":
                for part in ("propertyNames", "additionalProperties"):
                    yield from self.of(f"{place}[]", written.schema.get(part, {}), read.schema.get(part, {}))
            case "list":
                yield from self.of(f"{place}[]", written.schema["items"], read.schema["items"])
            case "tuple":
                yield from self._tuple(place, written.schema["prefixItems"], read.schema["prefixItems"])

    def _record(self, place: str, written: Schema, read: Schema) -> Iterator[Break]:
        for name, reader in read["properties"].items():
            within, writer = f"{place}.{name}", written["properties"].get(name)
            if name in read["required"] and name not in written["required"]:
                yield Break(within, "it is required, and need not be written")
            if writer is None:
                continue
            if not {name} & {*written["required"], *read["required"]} and writer["default"] != reader["default"]:
                yield Break(within, f"left out, it means {reader['default']!r} instead of {writer['default']!r}")
            yield from self.of(within, writer, reader)

    def _tuple(self, place: str, written: list[Schema], read: list[Schema]) -> Iterator[Break]:
        if len(written) != len(read):
            yield Break(place, f"{len(written)} items where {len(read)} are read")
            return
        for number, (writer, reader) in enumerate(zip(written, read, strict=True)):
            yield from self.of(f"{place}[{number}]", writer, reader)


@dataclass(frozen=True, slots=True)
class _Shape:
    """One of the alternatives that a schema allows. ``name`` is its definition's, where it has one."""

    kind: str
    schema: Schema
    name: str = ""
    tag: str = ""

    def fits(self, reader: _Shape) -> bool:
        same = (self.kind, self.tag) == (reader.kind, reader.tag)
        return same or (self.kind, reader.kind) in _READ_TOO


_READ_TOO = {("integer", "number"), ("enum", "string")}


def _alternatives(schema: Schema, definitions: Mapping[str, Schema], name: str = "", tag: str = "") -> list[_Shape]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        tag = schema.get("properties", {}).get("type", {}).get("const", tag)
        return _alternatives(definitions[name], definitions, name, tag)
    if (choice := schema.get("oneOf", schema.get("anyOf"))) is not None:
        return [shape for one in choice for shape in _alternatives(one, definitions)]
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not kinds:
        return [_Shape("enum" if "enum" in schema else "anything", schema, name)]
    return [_Shape(_kind(kind, schema, tag), schema, name, tag) for kind in kinds]


def _kind(kind: str, schema: Schema, tag: str) -> str:
    match kind:
        case "object":
            return "tagged" if tag else "record" if "properties" in schema else "map"
        case "array":
            return "tuple" if "prefixItems" in schema else "list"
        case "string" if "contentEncoding" in schema:
            return str(schema["contentEncoding"])
    return kind


if __name__ == "__main__":
    keep(RELEASED)
