"""Durations as operators write them (``30s``, ``1h30m``) and as the code carries them (seconds as float); figures and
times of day as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SECONDS_PER = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def parse_duration_s(text: str | float | int) -> float:
    """Seconds in ``text``: a number of seconds, or parts such as ``500ms``, ``30s``, ``1h30m``, ``7d``, ``0``.

    Raises ``ValueError`` that says what would be right.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 5m or 1h30m")
    if isinstance(text, int | float):
        seconds = float(text)
    else:
        compact = text.strip().replace(" ", "")
        parts = _PART.findall(compact)
        if compact == "0":
            return 0.0
        if not parts or "".join(number + unit for number, unit in parts) != compact:
            raise ValueError(f"{text!r} is not a duration; write for example 30s, 5m or 1h30m")
        seconds = sum(float(number) * _SECONDS_PER[unit] for number, unit in parts)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is not a duration of zero or more seconds")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest usual way to write ``seconds``: ``0.25s``, ``30s``, ``1h30m``."""
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    rest = round(seconds)
    text = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text


def format_number(value: float, digits: int = 4) -> str:
    """So many digits that count, and never an exponent: ``0.001234``, ``3.5``, ``12,040``."""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def format_count(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``, for nouns that take an s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock_time(at: float) -> str:
    """The time of day of ``at`` (epoch seconds), in UTC: sentences that are kept must be true whoever reads them."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")
