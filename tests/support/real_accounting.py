"""A real Slurm with accounting: slurmdbd and MariaDB as further child processes."""

from __future__ import annotations

import os
import shutil

from tests.support.ports import free_ports
from tests.support.real_slurm import RealSlurm, why_not

PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
NEEDED = ("slurmdbd", "mariadbd", "mariadb-install-db")

OPTIONS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""
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
DATABASE = """\
create database slurm_acct;
create user 'slurm'@'localhost' identified by 'slurm';
grant all on slurm_acct.* to 'slurm'@'localhost';
"""


def why_no_accounting() -> str | None:
    """What is missing for it on this machine, and how to mend it; None if nothing is."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    absent = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if absent:
        packages = f"apt-get install --no-install-recommends {PACKAGES}"
        return f"needs accounting ({', '.join(absent)} not found): {packages}"
    return why_not()


class AccountedSlurm(RealSlurm):
    """It keeps comments, and GPUs."""

    def _start_accounting(self) -> None:
        """Before the controller, which will not begin without."""
        folder, (port, database_port) = self.folder, free_ports(2)
        with (folder / "slurm.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(OPTIONS.format(folder=folder, port=port))
        data = folder / "mariadb"
        data.mkdir()
        shutil.chown(data, "mysql", "mysql")
        ours = ("--no-defaults", "--user=mysql", f"--datadir={data}")
        self.command("mariadb-install-db", *ours, "--skip-test-db", "--auth-root-authentication-method=normal")
        small = ("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900")
        here = ("--bind-address=127.0.0.1", f"--port={database_port}", f"--socket={data}/socket")
        self._start("mariadbd", *ours, *here, *small)
        client = ("mariadb", "--no-defaults", f"--socket={data}/socket", "-e")
        self._wait_for(lambda: "1" in self.command(*client, "select 1"))
        self.command(*client, DATABASE)
        own = folder / "slurmdbd.conf"
        own.write_text(CONFIGURATION.format(folder=folder, port=port, database_port=database_port))
        own.chmod(0o600)
        self._start("slurmdbd", "-D")
        self._wait_for(lambda: "root" in self.command("sacctmgr", "--noheader", "list", "user"))
