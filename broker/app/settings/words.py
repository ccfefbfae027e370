"""Pydantic's errors in an operator's words: which line, which field, what would be right."""

from __future__ import annotations

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from broker.app.settings.document import Document, Location
from broker.model.errors import ConfigError

_NOT = {
    "string_type": "is not text; put it in quotes",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "bool_type": "is neither true nor false",
    "list_type": "is not a list; write [first, second]",
    "dict_type": "is not a group of names with values",
    "model_type": "is not a group of fields",
    "model_attributes_type": "is not a group of fields",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "is too little; the least is {}"),
    "greater_than": ("gt", "is too little; it must be more than {}"),
    "less_than_equal": ("le", "is too much; the most is {}"),
    "less_than": ("lt", "is too much; it must be less than {}"),
}


class Misplaced(ValueError):
    """Raised by a section's own checks: ``at`` is the part of the section that should be changed."""

    def __init__(self, words: str, *at: str | int) -> None:
        super().__init__(words)
        self.at = at


FEW = 10


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """``did you mean X?`` for the nearest of ``known``, empty if none is near."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def choices(word: Any, known: Iterable[str]) -> str:
    """What could have been meant: the nearest name, and all of them where they are few or none is near."""
    names = list(known)
    near = did_you_mean(word, names)
    listed = f"known: {', '.join(names)}" if names and (not near or len(names) <= FEW) else ""
    return f"{near} ({listed})" if near and listed else near or listed


def problems_of(document: Document, section: type[BaseModel], error: ValidationError) -> list[ConfigError]:
    """One problem for each of pydantic's errors, by line."""
    found = [
        document.problem(*_located(section, document.data, details))
        for details in error.errors(include_url=False, include_context=True)
    ]
    return sorted(found, key=lambda problem: problem.line or 0)


def _located(section: type[BaseModel], data: Any, details: ErrorDetails) -> tuple[Location, str]:
    location, holder = _walk(section, data, details["loc"])
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    shown = reprlib.repr(value)
    if value is None and kind not in ("missing", "extra_forbidden") and not isinstance(context.get("error"), Misplaced):
        return location, "is empty; give it a value or leave it out"
    match kind:
        case "missing":
            info = fields_by_alias(holder).get(str(location[-1])) if holder else None
            return location, "this field is missing" + (f": {info.description}" if info and info.description else "")
        case "extra_forbidden":
            return location, f"unknown field; {choices(location[-1], fields_by_alias(holder) if holder else ())}"
        case "literal_error" | "enum":
            known = re.findall(r"'([^']*)'", context["expected"])
            return location, f"{shown} is not known here; {choices(value, known)}"
        case "union_tag_not_found":
            return (*location, "kind"), "this field is missing; " + choices("", _tags(holder, location))
        case "union_tag_invalid":
            known = re.findall(r"'([^']*)'", context["expected_tags"])
            return (*location, "kind"), f"{context['tag']!r} is not known here; {choices(context['tag'], known)}"
        case "too_short":
            return location, f"needs at least {context['min_length']}"
        case "too_long":
            return location, f"has more than {context['max_length']}"
        case "value_error":
            error = context["error"]
            return (*location, *(error.at if isinstance(error, Misplaced) else ())), str(error)
        case _ if kind in _BOUNDS:
            name, words = _BOUNDS[kind]
            return location, f"{shown} {words.format(context[name])}"
        case "int_from_float" | "int_type" if isinstance(value, float) and value.is_integer() and abs(value) >= 2**53:
            return location, f"{shown} is too large"
        case _ if kind in _NOT:
            return location, f"{shown} {_NOT[kind]}"
    return location, details["msg"]


def _tags(holder: type[BaseModel] | None, location: Location) -> list[str]:
    """The kinds to choose from: of a field, or of what stands by name in one."""
    known = fields_by_alias(holder) if holder else {}
    annotation = next((known[str(part)].annotation for part in reversed(location) if str(part) in known), None)
    return [kind_of(member) for member in sections_in(annotation) or sections_in(_item_of(annotation))]


def _walk(section: type[BaseModel], data: Any, loc: tuple[int | str, ...]) -> tuple[Location, type[BaseModel] | None]:
    """The place in the file that pydantic's ``loc`` means, and the section it lies in.

    ``loc`` also names the alternatives of unions, which are no place in the file: they are left out.
    """
    location: Location = ()
    annotation: Any = section
    holder: type[BaseModel] | None = section
    for part in loc:
        if part == "[key]":  # the name itself is wrong, not what stands under it
            break
        current = _section_for(annotation, data)
        if current is not None:
            holder = current
            if isinstance(data, dict) and data.get("kind") == part and part not in fields_by_alias(current):
                continue
            info = fields_by_alias(current).get(str(part))
            annotation = info.annotation if info else None
        else:
            annotation = _item_of(annotation)
            if not isinstance(data, dict | list):
                continue
        location = (*location, part)
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
    return location, holder


def fields_by_alias(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's fields by the names that stand in the file."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold: one, or the alternatives of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [section for member in get_args(annotation) for section in sections_in(member)]
    return []


def kind_of(section: type[BaseModel]) -> str:
    """The word that chooses this section among its alternatives, empty if it has none."""
    info = section.model_fields.get("kind")
    return str(get_args(info.annotation)[0]) if info and get_origin(info.annotation) is Literal else ""


def _section_for(annotation: Any, data: Any) -> type[BaseModel] | None:
    sections = sections_in(annotation)
    if len(sections) < 2:
        return sections[0] if sections else None
    chosen = data.get("kind") if isinstance(data, dict) else None
    return next((section for section in sections if kind_of(section) == chosen), None)


def _item_of(annotation: Any) -> Any:
    """What a list or a mapping holds."""
    if get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        inner = [member for member in get_args(annotation) if get_origin(member) in (list, dict)]
        annotation = inner[0] if inner else None
    return get_args(annotation)[-1] if get_origin(annotation) in (list, dict) else None
