"""One bad record among many: it must not hide the others, and must not be overlooked if it may be ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from actuators.slurm.job import COMMENT_MARK, JobRecord, JobState
from broker.model.errors import TransientError, shown

log = structlog.get_logger(__name__)

T = TypeVar("T")

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What reading something of a shape that nobody expected ends with."""


def readable(
    items: Iterable[T], read: Callable[[T], JobRecord], comment_of: Callable[[T], str | None], where: str
) -> tuple[JobRecord, ...]:
    """``read`` of each item, without the traces of refused submissions. What raises one of ``MALFORMED`` is left out,
    and told in the log in one line, if ``comment_of`` it is somebody else's. Raises ``TransientError`` if that cannot
    be said."""
    records, unreadable = [], []
    for item in items:
        try:
            record = read(item)
        except MALFORMED as error:
            comment = comment_of(item)
            if comment is None or comment.startswith(COMMENT_MARK):
                raise TransientError(
                    f"a job listed by {where} may be ours and cannot be read ({error}): {shown(item)}; the jobs are "
                    "unknown until it is gone or told in full: look at it with `scontrol show job`"
                ) from None
            unreadable.append(f"{error}: {shown(item)}")
        else:
            if not _refused(record):
                records.append(record)
    if unreadable:
        log.warning("foreign_jobs_unreadable", where=where, count=len(unreadable), first=unreadable[0])
    return tuple(records)


def _refused(record: JobRecord) -> bool:
    """Slurm keeps a record of a job whose submission it answered with an error (a GRES that no node has): ``FAILED`` in
    the second it was sent, with our name. It is no job, and an ``action_id`` that it bears was not carried out."""
    return record.state is JobState.FAILED and not record.nodes and record.reason == "BadConstraints"
