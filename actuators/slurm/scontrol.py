"""``scontrol show``'s answers about a site. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from actuators.slurm.client import PartitionFacts, ReservationFacts
from actuators.slurm.texts import gpus_among, hosts, moment, seconds

CONFIGURATION = ("scontrol", "show", "config")
PARTITIONS = ("scontrol", "show", "partition", "--oneliner")
RESERVATIONS = ("scontrol", "show", "reservation", "--oneliner")

_PAIR = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Za-z][\w:/]*=|\s*$)")
_NOTHING = ("", "(null)", "N/A", "None", "NONE", "ALL")
_AS_OF = re.compile(r"Configuration data as of (\d+)")
_STORAGE = re.compile(r"^AccountingStorageType\s*=\s*(\S+)", re.MULTILINE)
_STORED = re.compile(r"^AccountingStoreFlags\s*=\s*(\S+)", re.MULTILINE)
_RELEASE = re.compile(r"^SLURM_VERSION\s*=\s*(\S+)", re.MULTILINE)


def release_and_time(output: str) -> tuple[str, float | None]:
    """Slurm's release, and the controller's clock when it answered."""
    release, as_of = _RELEASE.search(output), _AS_OF.search(output)
    return release[1] if release else "", float(as_of[1]) if as_of else None


def accounted(output: str) -> tuple[str, ...] | None:
    """What accounting keeps of jobs beyond the usual; None without accounting."""
    storage, flags = _STORAGE.search(output), _STORED.search(output)
    if storage is None or storage[1].endswith("/none") or storage[1] in _NOTHING:
        return None
    return _names(flags[1]) if flags else ()


def partitions(output: str) -> Iterator[PartitionFacts]:
    for pairs in _lines(output, "PartitionName"):
        yield PartitionFacts(
            name=pairs["PartitionName"],
            up=pairs.get("State") == "UP",
            nodes=int(pairs.get("TotalNodes", "0")),
            max_time_s=seconds(pairs.get("MaxTime", "")),
            default_time_s=seconds(pairs.get("DefaultTime", "")),
            accounts=_names(pairs.get("AllowAccounts", "")),
            qos=_names(pairs.get("AllowQos", "")),
            gpus=gpus_among(pairs.get("TRES", "")),
        )


def reservations(output: str) -> Iterator[ReservationFacts]:
    """Nothing where Slurm says that there are none."""
    for pairs in _lines(output, "ReservationName"):
        begin, end = moment(int(pairs["StartTime"])), moment(int(pairs["EndTime"]))
        partition = pairs.get("PartitionName", "")
        yield ReservationFacts(
            name=pairs["ReservationName"],
            start_at=begin or 0.0,
            end_at=end or float("inf"),
            nodes=hosts(pairs.get("Nodes", "")),
            partition=None if partition in _NOTHING else partition,
            maintenance="MAINT" in pairs.get("Flags", "").split(","),
        )


def _lines(output: str, first: str) -> Iterator[dict[str, str]]:
    for line in output.splitlines():
        if line.startswith(f"{first}="):
            yield dict(_PAIR.findall(line))


def _names(text: str) -> tuple[str, ...]:
    return () if text in _NOTHING else tuple(text.split(","))
