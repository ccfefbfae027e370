"""Choosing a port that is free now. Whether it is ours later is confirmed by who listens on it, never assumed."""

from __future__ import annotations

import socket
from collections.abc import Collection

from broker.model.errors import CapacityUnavailable


def choose_port(host: str, taken: Collection[int], allowed: range | None) -> int:
    """A port on which ``host`` can be bound, not in ``taken``; from ``allowed`` if that is given.

    Raises ``CapacityUnavailable`` if none is left. ``SO_REUSEADDR`` is set as servers set it: a port with only
    connections in TIME_WAIT is free, one with a listener is not.
    """
    for port in allowed if allowed is not None else [0] * (len(taken) + 8):
        if port in taken:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            if chosen not in taken:
                return chosen
    where = f"in {allowed.start}-{allowed.stop - 1} " if allowed is not None else ""
    raise CapacityUnavailable(f"no free port {where}on {host}; widen the pool's option `ports` or end what holds them")
