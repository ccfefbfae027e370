"""The first thing a replica's process runs: claim the action, then become the engine. Run by path, never imported.

    python -I -S launcher.py INTENT CLAIM PROGRAM ARGUMENT...

The claim is the intent's file under the action's name, and link(2) gives that name to one process, ever. So whoever
is killed at whatever point, one action has at most one engine, and the engine's pid is on disk before it exists:
there is no moment between spawning and recording in which a dying broker could lose it. Only ``os``, ``sys`` and
``signal`` are imported: this costs about ten milliseconds per start.
"""

import os
import signal
import sys

CLAIMED_BY_ANOTHER = 124
CANNOT_CLAIM = 125
CANNOT_EXECUTE = 126


def main(intent: str, claim: str, program: str, arguments: list[str]) -> int:
    # A listening socket of the broker's that leaked into an engine would keep the broker's port taken after its death.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    try:
        write_identity(intent)
        os.link(intent, claim)
        os.unlink(intent)
        sync_directory(os.path.dirname(claim))
    except FileExistsError:
        os.unlink(intent)
        print(f"tidegate: {claim} exists: another process carries out this action", file=sys.stderr)
        return CLAIMED_BY_ANOTHER
    except OSError as error:
        print(f"tidegate: cannot claim the action: {error}", file=sys.stderr)
        return CANNOT_CLAIM
    # Python ignores these at its start, and what is ignored stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execv(program, arguments)
    except OSError as error:
        print(f"tidegate: cannot execute {program}: {error}", file=sys.stderr)
        return CANNOT_EXECUTE


def write_identity(intent: str) -> None:
    """Add ``boot pid start`` as the intent's second line; the pid and the start stay the same across exec."""
    with open("/proc/self/stat", "rb") as stat:
        start_ticks = stat.read().rpartition(b")")[2].split()[19].decode()
    with open("/proc/sys/kernel/random/boot_id") as boot:
        boot_id = boot.read().strip()
    file = os.open(intent, os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{boot_id} {os.getpid()} {start_ticks}\n".encode())
    os.fsync(file)
    os.close(file)


def sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
