"""Accounting for a real Slurm on this machine: slurmdbd and MariaDB as child processes, in the cluster's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.ports import free_port
from tests.support.real_slurm import RealSlurm
from tests.support.waiting import until

PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
NEEDED = ("slurmdbd", "mariadbd", "mariadb-install-db")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_READY_WITHIN_S = 60.0

CONFIGURATION = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
DATABASE = (
    "create database slurm_acct; create user 'slurm'@'%' identified by 'slurm'; "
    "grant all on slurm_acct.* to 'slurm'@'%';"
)


def why_no_accounting() -> str | None:
    """What is missing on this machine, and how to mend it; None if nothing is."""
    absent = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    return f"needs accounting ({', '.join(absent)} not found): apt-get install {PACKAGES}" if absent else None


class RealAccounting:
    """``options`` are lines of slurm.conf for ``RealSlurm``, and ``running`` what makes them true."""

    def __init__(self) -> None:
        self._port = free_port()

    def options(self) -> Sequence[str]:
        return (
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={self._port}",
            "AccountingStorageTRES=gres/gpu",
            "AccountingStoreFlags=job_comment",
        )

    @contextmanager
    def running(self, slurm: RealSlurm) -> Iterator[None]:
        """Until slurmdbd knows the cluster, and then for the block."""
        folder, database_port = slurm.folder, free_port()
        data = folder / "mariadb"
        data.mkdir()
        shutil.chown(data, "mysql", "mysql")
        _run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db",
             "--auth-root-authentication-method=normal")  # fmt: skip
        configuration = folder / "slurmdbd.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, port=self._port, database_port=database_port))
        configuration.chmod(0o600)
        socket = data / "socket"
        with ExitStack() as stack:
            _start(stack, folder, "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}",
                   f"--socket={socket}", "--bind-address=127.0.0.1", f"--port={database_port}",
                   "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900")  # fmt: skip
            until(lambda: _succeeds("mariadb", "--no-defaults", f"--socket={socket}", "-e", "select 1"), "MariaDB", 60)
            _run("mariadb", "--no-defaults", f"--socket={socket}", "-e", DATABASE)
            _start(stack, folder, "slurmdbd", "-D", environment=slurm.environment)
            until(lambda: _registered(slurm), "slurmdbd knows the cluster", _READY_WITHIN_S)
            yield


def _registered(slurm: RealSlurm) -> bool:
    """Whether slurmctld tells its jobs to slurmdbd."""
    try:
        told = slurm.command("sacctmgr", "--noheader", "--parsable2", "list", "cluster", "format=Cluster,ControlPort")
    except RuntimeError:
        return False
    return any(line.startswith("tidegate|") and not line.endswith("|0") for line in told.splitlines())


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([_program(name), *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip() or done.stdout.strip()}")


def _succeeds(name: str, *arguments: str) -> bool:
    return subprocess.run([_program(name), *arguments], capture_output=True, timeout=30, check=False).returncode == 0


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _start(
    stack: ExitStack, folder: Path, name: str, *arguments: str, environment: dict[str, str] | None = None
) -> None:
    log = stack.enter_context((folder / f"{name}.out").open("ab"))
    process = subprocess.Popen(
        [_program(name), *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
