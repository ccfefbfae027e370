"""Comma-separated lines to columns, a chunk at a time, by numpy: some twenty times faster than row by row.

Only what is plainly written is read here: ASCII, no quotes, the right number of fields, numbers of digits. Every other
row is left to the row parser, which reads it or says what is wrong with it. Our own, because the numpy and pandas
readers stop at the first bad row, or turn it into a NaN without saying where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.blocks import Bools, Floats, Ints

FARTHEST_ZONE_H = 14
"""Of a time zone from UTC: the Line Islands."""

LONGEST_TEXT = 64
"""Bytes of a name that is read here; session ids of BurstGPT have a few, UUIDs 36."""

_NEWLINE, _RETURN, _COMMA, _QUOTE, _DOT, _ZERO = b'\n\r,".0'
_POWERS = 10.0 ** np.arange(19)
_OFFSET_BASIS, _PRIME = 0xCBF2_9CE4_8422_2325, 0x100_0000_01B3


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a chunk, empty ones left out: bytes ``starts[i]`` to ``ends[i]``, the ``index[i]``-th line."""

    chunk: bytes
    bytes_: NDArray[np.uint8]
    starts: Ints
    ends: Ints
    index: Ints

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, row: int) -> bytes:
        return self.chunk[self.starts[row] : self.ends[row]]


def lines_of(chunk: bytes) -> Lines:
    bytes_ = np.frombuffer(chunk, np.uint8)
    breaks = np.flatnonzero(bytes_ == _NEWLINE)
    ends = breaks if chunk.endswith(b"\n") else np.append(breaks, len(chunk))
    starts = np.concatenate(([0], ends[:-1] + 1))
    ends = ends - ((ends > starts) & (bytes_[np.maximum(ends - 1, 0)] == _RETURN))
    filled = np.flatnonzero(ends > starts)
    return Lines(chunk, bytes_, starts[filled], ends[filled], filled)


@dataclass(frozen=True, slots=True)
class Cells:
    """The fields of those ``rows`` of ``lines`` that are plainly written, found by their commas."""

    lines: Lines
    rows: Ints
    width: int
    commas: Ints
    first: Ints
    """For each of ``rows`` its first comma among ``commas``."""

    def slices(self, column: int) -> tuple[Ints, Ints]:
        """Where each row's field begins and ends among the bytes."""
        left = self.lines.starts[self.rows] if column == 0 else self.commas[self.first + (column - 1)] + 1
        last = column == self.width - 1
        return left, self.lines.ends[self.rows] if last else self.commas[self.first + column]

    def text(self, column: int, row: int) -> str:
        left, right = self.slices(column)
        return self.lines.chunk[left[row] : right[row]].decode()


def cells_of(lines: Lines, width: int) -> Cells:
    commas = np.flatnonzero(lines.bytes_ == _COMMA)
    first = np.searchsorted(commas, lines.starts)
    plain = np.searchsorted(commas, lines.ends) - first == width - 1
    if _QUOTE in lines.chunk:
        plain &= ~_holds(lines, np.flatnonzero(lines.bytes_ == _QUOTE))
    if not lines.chunk.isascii():
        plain &= ~_holds(lines, np.flatnonzero(lines.bytes_ >= 128))
    rows = np.flatnonzero(plain)
    return Cells(lines, rows, width, commas, first[rows])


def _holds(lines: Lines, positions: Ints) -> Bools:
    holds: Bools = np.searchsorted(positions, lines.starts) < np.searchsorted(positions, lines.ends)
    return holds


def whole_numbers(cells: Cells, column: int, largest: int) -> tuple[Ints, Bools]:
    """The column as whole numbers, and where it is one of up to ``largest``, written in digits."""
    values, valid = digits(cells.lines.bytes_, *cells.slices(column), len(str(largest)))
    return values, valid & (values <= largest)


def digits(bytes_: NDArray[np.uint8], left: Ints, right: Ints, most: int) -> tuple[Ints, Bools]:
    """The number in each slice of ``bytes_``, and where the slice is one to ``most`` digits."""
    width = right - left
    valid = (width > 0) & (width <= most)
    values = np.zeros(len(left), dtype=np.int64)
    for place in range(min(most, int(width.max(initial=0)))):
        inside = width > place
        digit = bytes_[np.maximum(right - 1 - place, 0)] - np.uint8(_ZERO)
        valid &= ~inside | (digit <= 9)
        values += np.where(inside, digit, 0) * np.int64(10**place)
    return values, valid


def decimals(bytes_: NDArray[np.uint8], left: Ints, right: Ints) -> tuple[Floats, Bools]:
    """The number in each slice, and where it is digits with at most one point among them.

    Equal to ``float``: both the digits and the power of ten are exact up to 2**53, and the division rounds once.
    """
    width = right - left
    valid = (width > 0) & (width <= 18)
    values = np.zeros(len(left), dtype=np.int64)
    scale = np.ones(len(left), dtype=np.int64)
    places = np.zeros(len(left), dtype=np.int64)
    points = np.zeros(len(left), dtype=np.int64)
    for place in range(min(18, int(width.max(initial=0)))):
        inside = width > place
        byte = bytes_[np.maximum(right - 1 - place, 0)]
        point = inside & (byte == _DOT)
        digit = byte - np.uint8(_ZERO)
        valid &= ~inside | point | (digit <= 9)
        values += np.where(inside & ~point, digit, 0) * scale
        places[point] = place
        points += point
        scale = np.where(point, scale, scale * 10)
    valid &= (points <= 1) & (width > points) & (values <= 2**53)
    return values / _POWERS[places], valid


def text_numbers(cells: Cells, column: int) -> tuple[Ints, Bools]:
    """``text_number`` of the column, and where it needs no trimming and is not too long."""
    bytes_ = cells.lines.bytes_
    left, right = cells.slices(column)
    width = right - left
    valid = width <= LONGEST_TEXT
    edges = np.where(width > 0, bytes_[np.minimum(left, len(bytes_) - 1)], np.uint8(_ZERO))
    valid &= (edges > 32) & ((width == 0) | (bytes_[right - 1] > 32))
    state = np.full(len(left), _OFFSET_BASIS, dtype=np.uint64)
    shortest = int(width.min(initial=LONGEST_TEXT))
    for place in range(min(LONGEST_TEXT, int(width.max(initial=0)))):
        byte = bytes_[np.minimum(left + place, len(bytes_) - 1)]
        mixed = (state ^ byte) * np.uint64(_PRIME)
        state = mixed if place < shortest else np.where(width > place, mixed, state)
    numbers = ((state ^ state >> np.uint64(32)) & np.uint64(2**63 - 1)).astype(np.int64)
    return np.where(width == 0, -1, numbers), valid


def text_number(text: str) -> int:
    """A number of 63 bits for a text (FNV-1a, folded), -1 for none. Two of a million texts share one with a chance of
    5e-8."""
    if not text:
        return -1
    state = _OFFSET_BASIS
    for byte in text.encode():
        state = (state ^ byte) * _PRIME & 0xFFFF_FFFF_FFFF_FFFF
    return (state ^ state >> 32) & (2**63 - 1)


def coded(numbers: Ints, known: dict[int, int], learn: Any) -> NDArray[np.int32]:
    """Small codes for the few different ``numbers`` of a column; ``learn(row)`` gives the code of a new one."""
    codes = np.full(len(numbers), -1, dtype=np.int32)
    pending = np.arange(len(numbers))
    while len(pending):
        row = int(pending[0])
        number = int(numbers[row])
        if number not in known:
            known[number] = learn(row)
        same = numbers[pending] == number
        codes[pending[same]] = known[number]
        pending = pending[~same]
    return codes


def dates(bytes_: NDArray[np.uint8], left: Ints, right: Ints) -> tuple[Floats, Bools]:
    """Epoch seconds of ``2023-11-16 18:15:46.6805900``, UTC unless ``Z`` or ``+02:00`` follows; where it is one."""
    last = bytes_[np.maximum(right - 1, 0)]
    sign = bytes_[np.maximum(right - 6, 0)]
    width = right - left
    zoned = (width >= 25) & ((sign == ord("+")) | (sign == ord("-")))
    right = right - np.where(zoned, 6, last == ord("Z"))
    valid = right - left >= 19
    safe = np.where(valid, left, 0)
    if len(bytes_) < 19:
        return np.zeros(len(left)), np.zeros(len(left), dtype=np.bool_)
    safe = np.minimum(safe, len(bytes_) - 19)

    def number(offset: int, count: int) -> Ints:
        nonlocal valid
        values, written = digits(bytes_, safe + offset, safe + offset + count, count)
        valid = valid & written
        return values

    year, month, day = number(0, 4), number(5, 2), number(8, 2)
    hour, minute = number(11, 2), number(14, 2)
    for offset, marks in ((4, "-"), (7, "-"), (10, " T"), (13, ":"), (16, ":")):
        mark = bytes_[safe + offset]
        valid = valid & ((mark == ord(marks[0])) | (mark == ord(marks[-1])))
    second, written = decimals(bytes_, safe + 17, np.maximum(right, safe + 17))
    pointed = bytes_[np.minimum(safe + 19, len(bytes_) - 1)] == _DOT
    valid &= written & ((right - left == 19) | (pointed & (right - left > 20))) & (second < 60)
    valid &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= 28 + _extra_days(year, month))
    valid &= (year >= 1) & (hour < 24) & (minute < 60)
    at = _days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
    if bool(zoned.any()):
        start = np.where(zoned, right, 0)
        east_h, hours_ok = digits(bytes_, start + 1, start + 3, 2)
        east_m, minutes_ok = digits(bytes_, start + 4, start + 6, 2)
        east_s = np.where(sign == ord("-"), -1, 1) * (east_h * 3600 + east_m * 60)
        at = at - np.where(zoned, east_s, 0)
        somewhere = (east_h <= FARTHEST_ZONE_H) & (east_m <= 59)
        valid &= ~zoned | (hours_ok & minutes_ok & somewhere & (bytes_[start + 3] == ord(":")))
    return at, valid


def _extra_days(year: Ints, month: Ints) -> Ints:
    """Days of the month beyond 28."""
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    long = np.array([0, 3, 0, 3, 2, 3, 2, 3, 3, 2, 3, 2, 3])[np.clip(month, 0, 12)]
    extra: Ints = long + (leap & (month == 2))
    return extra


def _days(year: Ints, month: Ints, day: Ints) -> Ints:
    """Days since 1970-01-01 of the proleptic Gregorian calendar; years are counted from March, so that the leap day
    comes last (Howard Hinnant, days_from_civil)."""
    march_year = year - (month <= 2)
    month_from_march = (month + 9) % 12
    day_of_year = (153 * month_from_march + 2) // 5 + day - 1
    return 365 * march_year + march_year // 4 - march_year // 100 + march_year // 400 + day_of_year - 719_468
