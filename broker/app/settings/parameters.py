"""One value of ``policies.yaml`` by its path (``models.chat.policy.rules[queue].above``): what a sweep varies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.app.settings.document import Document, Location, dotted
from broker.app.settings.words import choices
from broker.model.errors import ConfigError


def with_value(document: Document, path: str, value: Any) -> Document:
    """The file as if it said ``value`` at ``path``; the sections check it afterwards, as they check any file.

    A step of the path is a name, of which all that lead there but the last must be groups, or a place in a list: by
    number from 0, or by the ``name`` that the item there has. Names with dots in them are recognised where the file has
    them. Groups that the file leaves out are made. Raises ``ConfigError`` with the path as its field if it leads
    nowhere.
    """
    try:
        location = located(document.data, path)
        return replace(document, data=_changed(document.data, location, value))
    except ValueError as error:
        raise ConfigError(str(error), path=str(document.path), field=path) from None


def located(data: Any, path: str) -> Location:
    """The steps of ``path`` in ``data``. Raises ``ValueError`` that says what would be right."""
    location: Location = ()
    rest = path
    while rest:
        if rest.startswith("["):
            inside, bracket, rest = rest[1:].partition("]")
            if not bracket or not inside:
                raise ValueError("a [ is never closed, or has nothing in it; write rules[queue] or rules[0]")
            step: str | int = _index(data, inside, location)
        elif location and not rest.startswith("."):
            raise ValueError(f"after {dotted(location)} a dot or a [ is expected")
        else:
            step, rest = _name(data, rest.removeprefix("."), location)
        location = (*location, step)
        data = _inside(data, step)
    if not location or isinstance(location[-1], int):
        raise ValueError("must end with the name of a field")
    return location


def _name(data: Any, rest: str, location: Location) -> tuple[str, str]:
    """The next name and what comes after it: the longest that the file has here, else all up to the next sign."""
    if data is not None and not isinstance(data, dict):
        found = "a list; write rules[queue] or rules[0]" if isinstance(data, list) else "a plain value"
        raise ValueError(f"{dotted(location)} is {found}")
    known = [name for name in data or () if rest == name or rest.startswith((f"{name}.", f"{name}["))]
    signs = [at for at in (rest.find("."), rest.find("[")) if at >= 0]
    name = max(known, key=len) if known else rest[: min(signs, default=len(rest))]
    if not name:
        raise ValueError("has two dots in a row, or one at an end")
    if not known and location == ("models",):
        raise ValueError(f"there is no model {name!r}; {choices(name, data or ())}")
    return name, rest[len(name) :]


def _index(data: Any, inside: str, location: Location) -> int:
    if not isinstance(data, list):
        raise ValueError(f"{dotted(location)} is no list; [{inside}] means nothing there")
    names = [item.get("name") if isinstance(item, dict) else None for item in data]
    if inside in names:
        return names.index(inside)
    if inside.isdecimal() and int(inside) < len(data):
        return int(inside)
    known = [str(name) for name in names if name is not None]
    hint = choices(inside, known) if known else f"its {len(data)} items have no name; count from 0"
    raise ValueError(f"{dotted(location)} has no {inside!r}; {hint}")


def _inside(data: Any, step: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(step)
    return data[step] if isinstance(data, list) and isinstance(step, int) else None


def _changed(data: Any, location: Location, value: Any) -> Any:
    """A copy along the path; what lies beside it is shared."""
    if not location:
        return value
    step, below = location[0], location[1:]
    if isinstance(data, list) and isinstance(step, int):
        return [_changed(item, below, value) if index == step else item for index, item in enumerate(data)]
    return {**(data or {}), step: _changed(_inside(data, step), below, value)}
