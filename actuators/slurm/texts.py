"""Slurm's ways of writing: durations, lists of hosts, numbers that mean "none", patterns of file names. Pure."""

from __future__ import annotations

import itertools
import math
import re

NO_VALUE = 0xFFFFFFFE
"""``NO_VAL`` of slurm.h; it and ``INFINITE``, one below and above, stand for no value wherever a number is sent."""

MOST_HOSTS = 100_000
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_NO_DURATION = frozenset({"UNLIMITED", "INFINITE", "NOT_SET", "NONE", "N/A", "PARTITION_LIMIT", ""})
_GPUS = re.compile(r"(?:^|,)gres/gpu=(\d+)")
_RANGES = re.compile(r"\[([^\]]*)\]")
_PATTERN = re.compile(r"%(\d*)([%AJNajnstux])")


def seconds(text: str) -> float | None:
    """Slurm's duration: ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``, and ``MM`` alone; None for
    ``UNLIMITED`` and other words for "no limit". Raises ``ValueError``."""
    text = text.strip()
    if text.upper() in _NO_DURATION:
        return None
    if not (match := _DURATION.fullmatch(text)):
        raise ValueError(f"{text!r} is no duration of Slurm's")
    days, *parts = match.groups()
    given = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, rest = (*given, 0, 0)[:3]
        return float(int(days) * 86400 + hours * 3600 + minutes * 60 + rest)
    if len(given) == 1:
        return float(given[0] * 60)
    hours, minutes, rest = (0, *given)[-3:]
    return float(hours * 3600 + minutes * 60 + rest)


def gpus_among(resources: str) -> int | None:
    """Of all types, in a list of trackable resources (``cpu=64,gres/gpu=16``); None where they are not counted."""
    found = _GPUS.search(resources)
    return int(found[1]) if found else None


def minutes_up(limit_s: float) -> int:
    """Whole minutes that are no less than ``limit_s``; at least 1, since 0 means "no limit" to Slurm."""
    return max(1, math.ceil(limit_s / 60))


def number(value: object) -> float | None:
    """A number of any parser: plain, or ``{set, infinite, number}``; None where it is not set, infinite, or one of the
    values that mean so. Raises ``ValueError``."""
    if isinstance(value, dict):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value) if 0 <= value < NO_VALUE - 1 else None  # not what NaN is


def moment(value: object) -> float | None:
    """A time since the epoch; None for 0, which is Slurm's "not yet", and for the far future."""
    return number(value) or None


def hosts(text: str) -> tuple[str, ...]:
    """``n[1-3,07],m1`` as its hosts. Raises ``ValueError``."""
    return tuple(itertools.chain.from_iterable(_spread(part) for part in _split(text.strip())))


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    return [part for part in re.split(r",(?![^\[]*\])", text) if part and part not in ("(null)", "None")]


def _spread(part: str) -> list[str]:
    if not (match := _RANGES.search(part)):
        if "[" in part or "]" in part:
            raise ValueError(f"{part!r} is no list of hosts")
        return [part]
    before, after = part[: match.start()], _spread(part[match.end() :]) if part[match.end() :] else [""]
    return [before + each + rest for each in _counted(match[1]) for rest in after]


def _counted(ranges: str) -> list[str]:
    found = []
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        last = last or first
        if not (first.isdigit() and last.isdigit()):
            raise ValueError(f"[{ranges}] is no range of hosts")
        if int(last) - int(first) >= MOST_HOSTS:
            raise ValueError(f"[{ranges[:50]}] is more hosts than any cluster has")
        found += [f"{value:0{len(first)}d}" for value in range(int(first), int(last) + 1)]
    return found


def output_path(pattern: str, job_id: int, name: str, user: str, first_node: str) -> str:
    """The file that ``pattern`` (``/logs/%j.out``) names; other releases send it filled in already."""
    values = {"j": str(job_id), "J": str(job_id), "A": str(job_id), "x": name, "u": user, "N": first_node, "n": "0"}
    values |= {"t": "0", "s": "batch", "a": "4294967294", "%": "%"}

    def filled(match: re.Match[str]) -> str:
        value = values[match[2]]
        return value.zfill(min(int(match[1]), 10)) if match[1] and value.isdigit() else value

    return _PATTERN.sub(filled, pattern)
