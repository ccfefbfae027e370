"""What Linux says of processes: which one is which, whose socket listens where, and signals that cannot go astray.

Our own reading of ``/proc`` rather than psutil's: identity here is (boot, pid, start in clock ticks since boot), which
no change of the wall clock moves, whereas psutil's start time is seconds since the epoch; and a session's members and
the owners of one listening port are found without opening every file descriptor of the machine.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTEN = re.compile(rb"^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A (?:\S+ +){5}(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for all time: a pid comes back, but never with the same start within the same boot."""

    boot_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it is now. ``ended``: a zombie, of which only the exit status is left."""

    identity: ProcessIdentity
    parent: int
    session: int
    ended: bool

    @property
    def pid(self) -> int:
        return self.identity.pid


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket: its packed address (4 or 16 bytes, all zero for any), its port, its inode."""

    address: bytes
    port: int
    inode: int


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_process(pid: int, boot: str) -> Process | None:
    """The process that has this pid now, None if there is none."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may contain anything, parentheses too; the numbers follow the last one (proc_pid_stat(5)).
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(
        ProcessIdentity(boot, pid, int(fields[19])), int(fields[1]), int(fields[3]), ended=fields[0] in (b"Z", b"X")
    )


def sessions() -> dict[int, list[int]]:
    """The pids of every session of the machine, by the session's id, which is its first process's pid."""
    members: dict[int, list[int]] = {}
    for entry in os.listdir(PROC):
        if entry.isdigit():
            try:
                members.setdefault(os.getsid(int(entry)), []).append(int(entry))
            except (ProcessLookupError, PermissionError):
                continue
    return members


def environment(pid: int) -> Mapping[str, str]:
    """What the process was started with; empty if that cannot be read, is overwritten (setproctitle) or it is gone."""
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if b"=" in item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def listeners() -> list[Listener]:
    """All listening TCP sockets in our network namespace."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            text = (PROC / "net" / table).read_bytes()
        except FileNotFoundError:  # a machine without IPv6 has no such table
            continue
        for address, port, inode in _LISTEN.findall(text):
            found.append(Listener(_packed_address(address), int(port, 16), int(inode)))
    return found


def _packed_address(digits: bytes) -> bytes:
    """The kernel prints an address as 32-bit words in the machine's own byte order."""
    words = (int(digits[start : start + 8], 16) for start in range(0, len(digits), 8))
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)


def sockets_of(pid: int) -> Iterator[int]:
    """Inodes of the sockets that the process has open; none if we may not look."""
    directory = PROC / str(pid) / "fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(directory / descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def send_signal(target: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal exactly this process; False if it has ended. Raises ``PermissionError`` if it is not ours to signal.

    The handle is opened first and the identity checked after: from then on the pid cannot come to mean another
    process. Kernels before 5.3 have no handles; there a gap of microseconds remains.
    """
    handle = _open_handle(target.pid)
    try:
        process = read_process(target.pid, boot_id())
        if process is None or process.ended or process.identity != target:
            return False
        if handle is None:
            os.kill(target.pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)


def _open_handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # gone, too old a kernel, or forbidden by a container: the identity check decides
        return None
