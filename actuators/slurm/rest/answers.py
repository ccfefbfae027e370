"""What an answer of slurmrestd means, by its body and its status: neither alone can be believed. Pure.

a token that is not accepted      500 "Unspecified error" or 5005 (22.05), 511 (24.11 and later), 401
an unknown partition              500 (22.05, 24.11), 422 (26.05)
an unknown field in a submission  400 (22.05), 200 with a warning and a job
an unknown job, DELETE            500 (22.05), 200 with nothing (24.11), 200 with a status in the body (26.05)
an unknown node                   200, with errors whose number is 0
jobs since a time, unchanged      304, 422, or 200 with an empty list and a warning
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from actuators.slurm.rest.family import Json

INVALID_JOB = 2017
ALREADY_DONE = 2021
AUTHENTICATION = 1007
"""``Protocol authentication error``."""
UNTOLD = frozenset({-1, 0, 5005})
"""``Unspecified error``, and ``Zero Bytes were transmitted or received``: how 22.05 tells of a token that slurmctld
does not accept, and of a slurmctld that went away in the middle."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is empty where it was no JSON object; ``plain`` is then what was said instead."""

    status: int
    body: Json
    plain: str = ""

    @property
    def errors(self) -> list[Json]:
        return _listed(self.body, "errors")

    @property
    def numbers(self) -> frozenset[int]:
        """Of all its errors; the field's name changes with the parser, and within one."""
        return frozenset(_number(error) for error in self._told())

    @property
    def words(self) -> str:
        """All that it says of what went wrong, one to a line."""
        said = [_words(error) for error in self._told()]
        return "\n".join(word for word in said if word) or self.plain[:300] or f"HTTP status {self.status}"

    @property
    def fine(self) -> bool:
        """A full answer without an error."""
        return self.status == 200 and bool(self.body) and not self.body.get("errors")

    @property
    def unknown_address(self) -> bool:
        """Of an address that the parser does not have, or of a parser that is not there."""
        return self.status == 404 and not self.body

    @property
    def unauthorised(self) -> bool:
        return self.status in (401, 403, 511) or AUTHENTICATION in self.numbers

    @property
    def perhaps_unauthorised(self) -> bool:
        """22.05 does not say."""
        return self.status == 500 and self.numbers <= UNTOLD

    @property
    def job_gone(self) -> bool:
        """An answer to DELETE that says that there is nothing left to end."""
        return bool(self.numbers & {INVALID_JOB, ALREADY_DONE})

    @property
    def unchanged(self) -> bool:
        """A list that is empty because nothing has changed."""
        return self.status == 304 or any("No job changes" in _words(each) for each in _listed(self.body, "warnings"))

    @property
    def release(self) -> str:
        meta = _object(self.body.get("meta"))
        return str(_object(meta.get("slurm") or meta.get("Slurm")).get("release", ""))

    def _told(self) -> Iterator[Json]:
        yield from self.errors
        for each in _listed(self.body, "status"):
            yield _object(each.get("error"))


def _listed(body: Json, name: str) -> list[Json]:
    """The objects of a list; whatever else stands in it as an object that says so."""
    listed = body.get(name)
    return [_object(each) or {"message": str(each)} for each in listed] if isinstance(listed, list) else []


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _number(error: Json) -> int:
    for name in ("error_number", "error_code", "code", "errno"):
        if isinstance(value := error.get(name), int):
            return value
    return 0


def _words(error: Json) -> str:
    """``error`` is Slurm's word for the number and ``description`` what was being done, as a rule."""
    parts = [error.get("description"), error.get("error"), error.get("message")]
    told = dict.fromkeys(str(part) for part in parts if part and part != "No error")
    return ": ".join(told)
