"""Runs a command on a newer Slurm than this machine's: with the ``/usr`` of another Debian release in place of its own.

python -m tests.support.slurm_suite SUITE -- COMMAND ...

The release's packages are unpacked once by debootstrap below ``build/slurm``. The command sees them in a mount
namespace of its own, in which all else, and so this checkout and its Python, is where it was. Nothing is mounted
outside of it, and its mounts end with its last process: who removes ``build`` meanwhile removes nothing but ``build``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tests.support import real_slurm, real_sshd
from tests.support.command_line import ROOT

TREES = ROOT / "build" / "slurm"
PACKAGES = (
    *real_slurm.PACKAGES.split(),
    *real_slurm.REST_PACKAGES.split(),
    *real_sshd.PACKAGES.split(),
    "python3",  # brings the libraries that this machine's Python is linked with
)
SCRIPTS = Path("/usr/share/debootstrap/scripts")
DEBOOTSTRAP_S = 900.0
USAGE, FAILED = 2, 1


class SuiteError(Exception):
    """The release's packages are not to be had here; the message says why."""


def why_not() -> str | None:
    """What is missing to unpack and show another release's packages; None if nothing is."""
    if os.geteuid() != 0:
        return "needs to be root, to mount"
    absent = [name for name in ("debootstrap", "apt-get", "unshare") if shutil.which(name) is None]
    return f"needs {', '.join(absent)}: apt-get install --no-install-recommends debootstrap" if absent else None


def main(words: Sequence[str]) -> int:
    if len(words) < 3 or words[1] != "--":
        print(__doc__, file=sys.stderr)
        return USAGE
    if (reason := why_not()) is not None:
        print(f"Slurm of {words[0]} {reason}", file=sys.stderr)
        return USAGE
    try:
        tree = unpacked(words[0])
    except SuiteError as error:
        print(error, file=sys.stderr)
        return FAILED
    command = inside(tree, words[2:])
    os.execvp(command[0], command)


def unpacked(suite: str) -> Path:
    """The folder with the release's packages, made unless it is there already. Raises ``SuiteError``."""
    tree = TREES / suite
    done = tree / "unpacked"
    if done.exists() and done.read_text(encoding="utf-8").split() == list(PACKAGES):
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    log = TREES / f"{suite}-packages.log"
    print(f"unpacking Debian {suite} with its Slurm into {tree} (a minute or two, once) ...", file=sys.stderr)
    script = [] if (SCRIPTS / suite).exists() else [str(SCRIPTS / "sid")]  # an older debootstrap lacks newer names
    # A tree that a crash spoilt is not marked and is made again, so that dpkg need not wait for the disk at each file.
    environment = os.environ | {"DPKG_FORCE": "unsafe-io"}
    with log.open("wb") as output:
        made = subprocess.run(
            ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, tree,
             mirror(), *script],
            env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=DEBOOTSTRAP_S, check=False,
        )  # fmt: skip
    if made.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise SuiteError(f"debootstrap of {suite} ended with {made.returncode}; see {log}:\n{last}")
    shutil.rmtree(tree / "var/cache/apt", ignore_errors=True)
    done.write_text("\n".join(PACKAGES), encoding="utf-8")
    return tree


def mirror() -> str:
    """Where apt has this machine's own Debian packages from. Raises ``SuiteError`` where that is no Debian."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = [line.split()[1] for line in told.stdout.splitlines() if line.startswith("Debian ")]
    if not found:
        raise SuiteError("apt knows no Debian mirror here (`apt-get indextargets`): `apt-get update`, or add one")
    return found[0]


def inside(tree: Path, command: Sequence[str]) -> list[str]:
    """``command`` in a mount namespace where ``/usr`` is the tree's."""
    binds = [(str(path), f"{tree}{path}") for path in _own_python() if path.exists()]
    binds += [(os.path.realpath(link), f"{tree}{link}") for link in _own_names()]
    for source, target in binds:
        if Path(source).is_dir():
            Path(target).mkdir(parents=True, exist_ok=True)
        else:
            Path(target).touch()
    binds.append((f"{tree}/usr", "/usr"))
    mounts = "".join(f"mount --rbind '{source}' '{target}' && " for source, target in binds)
    return ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *command]


def _own_python() -> list[Path]:
    """What this Python needs of the machine's own ``/usr``."""
    local = [Path("/usr/local")]
    if sys.base_prefix != "/usr":
        return local
    return [*local, Path(os.path.realpath(sys.executable)), Path(sysconfig.get_path("stdlib"))]


def _own_names() -> list[Path]:
    """What this Python is called by below ``/usr``: there a virtual environment's ``python`` leads to the machine's
    ``python3``, which is another Python in the tree."""
    found, path = [], Path(sys.executable)
    while path.is_symlink():
        path = path.parent / path.readlink()
        if path.is_symlink() and path.is_relative_to("/usr/bin"):
            found.append(path)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
