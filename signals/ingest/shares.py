"""Which scraper reads which replica: who is alive by the beats in the log, and each one's share by rendezvous hashing.

Both follow from the log alone. Whoever has read as far has found the same, whatever its clock says, and while nobody
can read the log nobody comes or goes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Collection

MISSED_BEATS = 5
"""One is gone when another has beaten so often since: some seconds. One that is only slow comes back with its next
beat; what both read meanwhile counts once."""


class LiveScrapers:
    """Told of each beat and each farewell in the order of the log."""

    def __init__(self) -> None:
        self._count = 0
        self._beats: OrderedDict[str, deque[int]] = OrderedDict()
        """Which of all beats were the last few of each, who has not beaten for longest first."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._beats)

    def beat(self, name: str) -> None:
        self._count += 1
        beats = self._beats[name] = self._beats.pop(name, deque(maxlen=MISSED_BEATS))
        beats.append(self._count)
        if len(beats) == MISSED_BEATS:
            while self._beats[silent := next(iter(self._beats))][-1] < beats[0]:
                del self._beats[silent]

    def left(self, name: str) -> None:
        self._beats.pop(name, None)


def scraper_of(replica_id: str, scrapers: Collection[str]) -> str | None:
    """Whose share the replica is: the highest random weight of all, so that one who comes takes only what becomes its
    own, and of one who goes only its own moves. None if there is nobody. (Thaler and Ravishankar, 1998.)"""
    return max(scrapers, key=lambda name: (_weight(name, replica_id), name), default=None)


def _weight(name: str, replica_id: str) -> bytes:
    """Alike in every process, which Python's own hash is not."""
    return hashlib.blake2b(f"{name}\0{replica_id}".encode(), digest_size=8).digest()
