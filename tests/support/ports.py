"""Ports of this machine: some for processes that must be told theirs, and whether somebody listens on one yet."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LOWEST, HIGHEST = 10_000, 20_000
"""Below those that the kernel gives to connections: one of them took a port before the process that was told it. And
below those that node agents try."""

_chance = random.SystemRandom()  # two test processes must not begin at the same place


def free_port() -> int:
    """One that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> range:
    """Ports in a row that nobody listens on now."""
    for _ in range(100):
        first = _chance.randrange(LOWEST, HIGHEST - count)
        row = range(first, first + count)
        with ExitStack() as held:
            try:
                for port in row:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return row
    raise RuntimeError(f"no {count} free ports in a row")


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def held(port: int, *, shared: bool = False) -> Iterator[None]:
    """Another process's listener as far as the kernel is concerned; ``shared`` sets SO_REUSEPORT, as vLLM did."""
    with socket.socket() as listener:
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield
