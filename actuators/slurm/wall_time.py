"""The wall time that a job asks for: what the pool says, but over before maintenance that is announced. Pure.

Slurm starts no job that could still run when its nodes are reserved: a job that asks for two days waits from two days
before a maintenance to its end, while one that asks for what is left starts at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from actuators.slurm.client import PartitionFacts, ReservationFacts
from broker.model.errors import ActionRejected, CapacityUnavailable
from broker.model.units import clock_time, format_duration

MARGIN_S = 300.0
"""Slurm looks at limits every 30 s and gives jobs KillWait to go; ends of 17 s late were seen at a limit of 60 s."""
MINUTE_S = 60.0


def fitted_limit_s(
    limit_s: float,
    now: float,
    reservations: Iterable[ReservationFacts],
    partition: PartitionFacts,
    *,
    least_s: float,
) -> float:
    """The limit to ask for at ``now``: ``limit_s``, the partition's if that is shorter, or what is left before the next
    maintenance of the whole partition, in whole minutes.

    ``least_s`` is the shortest that is of use (load time, a while of service, drain). Raises
    ``CapacityUnavailable`` if too little is left, ``ActionRejected`` if there is never as much: a pool that counted as
    full for it would take no other model's replicas either.
    """
    allowed_s = limit_s if partition.max_time_s is None else min(limit_s, partition.max_time_s)
    fitted_s, before = allowed_s, None
    for reservation in reservations:
        if not _stops(reservation, partition) or reservation.end_at <= now:
            continue
        left_s = max(0.0, reservation.start_at - MARGIN_S - now)
        if left_s < fitted_s:
            fitted_s, before = left_s, reservation
    fitted_s = fitted_s // MINUTE_S * MINUTE_S
    if fitted_s >= max(least_s, MINUTE_S):
        return fitted_s
    if before is None:
        raise ActionRejected(
            f"partition {partition.name} gives {format_duration(allowed_s)}, and a replica needs "
            f"{format_duration(least_s)} to be of use; mend time_limit or partition of the pool, or the model's "
            "drain_limit in policies.yaml"
        )
    raise CapacityUnavailable(
        f"maintenance {before.name} of partition {partition.name} lasts from {clock_time(before.start_at)} to "
        f"{clock_time(before.end_at)}: a replica needs {format_duration(least_s)} before it to be of use"
    )


def _stops(reservation: ReservationFacts, partition: PartitionFacts) -> bool:
    """Whether none of the partition's nodes is left: elsewhere Slurm finds other nodes by itself."""
    named = reservation.partition in (None, partition.name)
    return reservation.maintenance and named and len(reservation.nodes) >= partition.nodes
