"""One YAML file as plain data that remembers its lines.

Scalars follow YAML 1.2's core schema, not 1.1: ``no`` is text and not false, ``18:00`` is text and not 1080, a date
is text. Tags are refused, aliases may stand for values but not blow up, and a key stands once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from broker.model.errors import ConfigError, ConfigErrors

Location = tuple[str | int, ...]

LARGEST_BYTES = 2 * 2**20
DEEPEST = 100
MOST_VALUES = 200_000
"""An alias costs nothing to write and all it stands for to read: nine lines can make a billion values."""

_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes only; every plain scalar stays text until ``_scalar`` reads it."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Document:
    """``data`` is what the file says. ``problems`` are those that did not stop the reading (keys that stand twice)."""

    path: Path
    data: Any
    lines: dict[Location, int] = field(default_factory=dict)
    problems: tuple[ConfigError, ...] = ()

    def problem(self, location: Location, words: str) -> ConfigError:
        """A problem at ``location``, or at the nearest enclosing thing that the file has."""
        depth = next((n for n in range(len(location), 0, -1) if location[:n] in self.lines), 0)
        line = self.lines.get(location[:depth], 1)
        return ConfigError(words, path=str(self.path), line=line, field=dotted(location) or None)


def dotted(location: Location) -> str:
    """``("rules", 0, "for")`` -> ``rules[0].for``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: str | Path) -> Document:
    """Raises ``ConfigErrors`` for a file that is missing, unreadable, too large, empty or not YAML."""

    path = Path(path)

    def refuse(words: str, line: int | None = None) -> ConfigErrors:
        return ConfigErrors([ConfigError(words, path=str(path), line=line)])

    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise refuse("there is no such file") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror or error}") from None
    if len(raw) > LARGEST_BYTES:
        raise refuse(f"is larger than {LARGEST_BYTES // 2**20} MiB; that is hardly a configuration")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8 text", 1 + raw[: error.start].count(b"\n")) from None
    try:
        node = _compose(text)
        if node is None:
            raise refuse("the file is empty; docs/configuration.md says what belongs into it")
        return _Reader(path).read(node)
    except yaml.MarkedYAMLError as error:
        raise refuse(_syntax_words(error, text), error.problem_mark.line + 1 if error.problem_mark else None) from None
    except yaml.reader.ReaderError as error:
        line = 1 + text[: error.position].count("\n")
        raise refuse("a control character, which YAML does not allow; remove it", line) from None
    except RecursionError:
        raise refuse("is nested too deeply") from None


def _compose(text: str) -> yaml.Node | None:
    """The root node; raises ``RecursionError`` for what is nested beyond ``DEEPEST``.

    The depth is counted on the events first: libyaml composes by recursion in C and takes the process down with it.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    return node


def _syntax_words(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    if mark is not None:
        lines = text.splitlines()
        indent = re.match(r"\s*", lines[mark.line] if mark.line < len(lines) else "")
        if indent and "\t" in indent[0]:
            return "a tab in the indentation; YAML wants spaces"
    if error.context == "expected a single document in the stream":
        return "a second document begins here (---); write one document to a file"
    return "is not YAML: " + ", ".join(part for part in (error.problem, error.context) if part)


class _Reader:
    """Turns nodes into data, and notes lines and problems on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Location, int] = {}
        self.problems: list[ConfigError] = []
        self.values = 0
        self.open: set[int] = set()

    def read(self, node: yaml.Node) -> Document:
        data = self._value(node, ())
        return Document(self.path, data, self.lines, tuple(self.problems))

    def _note(self, node: yaml.Node, location: Location, words: str) -> ConfigError:
        line = node.start_mark.line + 1
        problem = ConfigError(words, path=str(self.path), line=line, field=dotted(location) or None)
        self.problems.append(problem)
        return problem

    def _value(self, node: yaml.Node, location: Location) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            raise ConfigErrors(
                [self._note(node, location, f"aliases make more than {MOST_VALUES} values of this file")]
            )
        if id(node) in self.open:
            raise ConfigErrors([self._note(node, location, "this value contains itself by an alias")])
        self.lines.setdefault(location, node.start_mark.line + 1)
        if node.tag not in _PLAIN_TAGS:
            self._note(node, location, f"the tag {node.tag} is not supported; write the plain value")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self._entries(node, location))
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, (*location, index)) for index, item in enumerate(node.value)]
            return _scalar(node) if isinstance(node, yaml.ScalarNode) else None
        finally:
            self.open.discard(id(node))

    def _entries(self, node: yaml.MappingNode, location: Location) -> Iterator[tuple[str, Any]]:
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._note(key, location, "a name must be plain text")
                continue
            inside = (*location, key.value)
            if key.value == "<<":
                self._note(key, location, "merging (<<) is not supported; an alias may stand for a whole value")
            elif key.value in first:
                self._note(key, inside, f"stands a second time; the first is in line {first[key.value]}")
            else:
                first[key.value] = line
                self.lines[inside] = line
                yield key.value, self._value(value, inside)


_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style:  # quoted, or a block: always text
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return _TRUE.fullmatch(text) is not None
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text
