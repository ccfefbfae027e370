"""One broker works with a pool's records. Two with a log each but the same ``state_dir`` would adopt each other's
replicas, and each would end what the other started."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from broker.model.errors import ConfigError, LeadershipRefused


@contextmanager
def records_locked(state_dir: Path, pool_id: str) -> Iterator[None]:
    """Hold the pool's records for this process; the kernel lets go of them when it ends, however it ends.

    The lock is ``flock`` on ``POOL.lock`` beside the pool's records; the file tells who holds it and stays. Raises
    ``LeadershipRefused`` naming who does, ``ConfigError`` for a folder that cannot be used.
    """
    field = f"pools.{pool_id}.state_dir"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_dir / f"{quote(pool_id, safe='')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{state_dir} cannot be used: {error.strerror or error}", field=field) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
            raise LeadershipRefused(
                f"{field}: the records in {state_dir} are in use by {who}. One broker works with them: stop that one "
                "first, or give this site a state_dir of its own"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
