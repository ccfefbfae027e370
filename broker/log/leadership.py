"""Who leads: the kernel's lock on a small file beside the log, gone with the process that held it."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
from pathlib import Path

from broker.log.schema import beside, unreachable
from broker.model.errors import LeadershipRefused, LogUnreachable


def lock_path(path: Path) -> Path:
    """One file has one lock, by whatever link it is reached."""
    return beside(path.resolve(), ".lock")


class LeaderLock:
    """``flock`` on ``PATH.lock``. The file says who leads. Whoever locks it looks whether it is still the one that lies
    there: a process that had opened a removed file would lead beside one that locked its successor."""

    def __init__(self, path: Path, holder: str) -> None:
        """Raises ``LeadershipRefused`` naming who leads."""
        self._path = path
        self._descriptor = _locked(path)
        told = json.dumps({"holder": holder, "host": socket.gethostname(), "pid": os.getpid()})
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, told.encode(), 0)
        except OSError:
            # A full disk must not keep the broker from leading: whoever is refused just learns less.
            os.ftruncate(self._descriptor, 0)

    def release(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        """Release it and leave no file: for who has led for a moment only, and is done with the log."""
        lock_path(self._path).unlink(missing_ok=True)
        self.release()


def _locked(path: Path) -> int:
    lock = lock_path(path)
    while True:
        descriptor = _opened(lock)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        except BlockingIOError:
            refusal = _refusal(path, descriptor)
            os.close(descriptor)
            raise refusal from None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _opened(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _not_lockable(lock, error) from None


def _not_lockable(lock: Path, error: OSError) -> LogUnreachable:
    if isinstance(error, FileNotFoundError):
        return LogUnreachable(f"the folder {lock.parent} does not exist: make it, or give the log another path")
    return unreachable(lock, error)


def _refusal(path: Path, descriptor: int) -> LeadershipRefused:
    since = datetime.datetime.fromtimestamp(os.fstat(descriptor).st_mtime, datetime.UTC)
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        who = f"{told['holder']} (host {told['host']}, process {told['pid']}, since {since:%Y-%m-%d %H:%M:%S} UTC)"
    except (ValueError, KeyError, TypeError):
        who = "another process that has not told its name yet"
    return LeadershipRefused(
        f"{path} is led by {who}. One broker leads a log: stop that one first, or give this one a log of its own. "
        "The lock ends with that process; removing the .lock file does not help"
    )
