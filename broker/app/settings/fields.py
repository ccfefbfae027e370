"""The kinds of values that both files are made of: durations, sizes, names, times of day, dates."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from broker.app.settings.words import did_you_mean
from broker.model.units import format_duration, parse_duration_s

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,46}[a-z0-9])?")
TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_BYTES_PER = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

FOLDER = "folder"
"""The validation context's key for the folder that relative paths start from."""


@dataclass(frozen=True, slots=True)
class Called:
    """What the reference calls a kind of value, and how it writes one."""

    words: str
    write: Callable[[Any], str] = str


def name_in_file(name: str) -> str:
    """``interval_s`` -> ``interval``: in a file the value carries its unit; ``from_`` -> ``from``."""
    return re.sub(r"(_s|_bytes|_)$", "", name)


class Section(BaseModel):
    """One group of fields of a file. Values are taken as they stand: ``"3"`` is not 3, an unknown field is an error."""

    model_config = ConfigDict(
        alias_generator=name_in_file,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
    )


def _name(value: Any) -> Any:
    if isinstance(value, str) and not NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} cannot name jobs, pods and processes; use up to 48 lower-case letters, digits, '-' and '.', "
            "with a letter or digit at both ends"
        )
    return value


def _duration(value: Any) -> float:
    if value is None or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a duration; write for example 30s or 5m")
    return parse_duration_s(value)


def _http_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} is no address; write for example http://login1:8600")
    return value


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    parts = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise ValueError(f"{value!r} is not a size; write for example 500kB or 20MiB")
    return round(float(parts[1]) * _BYTES_PER[parts[2]])


def _path(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, str) and value and "\0" not in value:
        value = Path(value)
    if not isinstance(value, Path):
        raise ValueError(f"{value!r} is not a path")
    folder: Path | None = (info.context or {}).get(FOLDER)
    path = value.expanduser() if str(value).startswith("~") else value
    return path if folder is None else folder / path


def _time_zone(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time zone; write a name such as Europe/Berlin or UTC")
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        hint = did_you_mean(value, available_timezones()) or "write a name such as Europe/Berlin or UTC"
        raise ValueError(f"{value!r} is not a time zone; {hint}") from None
    return value


def _minute(value: Any) -> int:
    parts = TIME_OF_DAY.fullmatch(value) if isinstance(value, str) else None
    minute = int(parts[1]) * 60 + int(parts[2]) if parts else 24 * 60 + 1
    if minute > 24 * 60:
        raise ValueError(f"{value!r} is not a time of day; write 08:00, or 24:00 for the end of the day")
    return minute


def _date(value: Any) -> str:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            raise ValueError
        return date.fromisoformat(value).isoformat()
    except (ValueError, TypeError):
        raise ValueError(f"{value!r} is not a date; write for example 2030-12-24") from None


DURATION_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*)+$"},
    ],
    "examples": ["30s", "5m", "1h30m"],
}

_SIZE_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}],
    "examples": ["500kB", "20MiB"],
}

Name = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"}), Called("name")
]
Duration = Annotated[
    float, BeforeValidator(_duration), WithJsonSchema(DURATION_SCHEMA), Called("duration", format_duration)
]
Size = Annotated[
    int, BeforeValidator(_size), Field(ge=1), WithJsonSchema(_SIZE_SCHEMA), Called("size", lambda n: f"{n >> 20}MiB")
]
LocalPath = Annotated[Path, BeforeValidator(_path), WithJsonSchema({"type": "string", "minLength": 1}), Called("path")]
HttpAddress = Annotated[str, AfterValidator(_http_address)]
TimeZone = Annotated[
    str,
    BeforeValidator(_time_zone),
    WithJsonSchema({"type": "string", "examples": ["Europe/Berlin"]}),
    Called("time zone, as `Europe/Berlin`"),
]
TimeOfDay = Annotated[
    int,
    BeforeValidator(_minute),
    WithJsonSchema({"type": "string", "pattern": f"^({TIME_OF_DAY.pattern})$"}),
    Called("time of day, as `08:00`", lambda minute: f"{minute // 60:02}:{minute % 60:02}"),
]
Date = Annotated[
    str, BeforeValidator(_date), WithJsonSchema({"type": "string", "format": "date"}), Called("date, as `2030-12-24`")
]
