"""A real sshd on this machine for the length of a test: on loopback, with keys of its own, for the present user."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from actuators.slurm.ssh import Login
from tests.support.ports import free_port, listens
from tests.support.real_server import RealServer
from tests.support.waiting import until

PACKAGES = "openssh-server openssh-client"
SEPARATION_FOLDER = Path("/run/sshd")
"""sshd, begun by root, wants this to exist and to be empty. It stays: another test's sshd may have come to need it."""


def why_not() -> str | None:
    """What is missing for an sshd, and how to mend it; None if nothing is."""
    absent = [command for command in ("sshd", "ssh-keygen") if _command(command) is None]
    if absent:
        return f"needs OpenSSH ({', '.join(absent)} not found): apt-get install --no-install-recommends {PACKAGES}"
    return None


def _command(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class RealSshd(RealServer):
    """``with RealSshd({"SLURM_CONF": ...}) as sshd``: sessions get ``environment``, and ``forced`` is what they run
    whatever they ask for."""

    def __init__(self, environment: Mapping[str, str], forced: str | None = None) -> None:
        self._environment = environment
        self._forced = forced
        super().__init__()
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def _why_not(self) -> str | None:
        return why_not()

    def _begin(self) -> None:
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="sshd-")))
        self._configure()
        self._open.callback(self.stop)
        self.start()

    @property
    def login(self) -> Login:
        return Login(
            "127.0.0.1", getpass.getuser(), self._folder / "known_hosts", self.port, (self._folder / "user_key",)
        )

    def start(self) -> None:
        log = (self._folder / "sshd.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [_command("sshd") or "sshd", "-D", "-e", "-f", str(self._folder / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(lambda: listens(self.port), "sshd listens", by=self._process)

    def stop(self) -> None:
        """sshd and the sessions that it holds."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            sessions = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            for session in sessions:
                with suppress(psutil.NoSuchProcess):
                    session.terminate()
            process.wait(10)

    def _configure(self) -> None:
        folder = self._folder
        if os.geteuid() == 0:
            SEPARATION_FOLDER.mkdir(mode=0o755, exist_ok=True)
        for name in ("host_key", "user_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=30
            )
        self.port = free_port()
        forced = f'command="{self._forced}",restrict ' if self._forced else ""
        (folder / "authorized_keys").write_text(forced + (folder / "user_key.pub").read_text(), encoding="ascii")
        host_key = (folder / "host_key.pub").read_text(encoding="ascii")
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}", encoding="ascii")
        settings = [
            f"ListenAddress 127.0.0.1:{self.port}", f"HostKey {folder}/host_key", f"PidFile {folder}/sshd.pid",
            f"AuthorizedKeysFile {folder}/authorized_keys", "StrictModes no", "UsePAM no", "PermitRootLogin yes",
            "PasswordAuthentication no", "PrintMotd no",
            *(["SetEnv " + " ".join(f'"{name}={value}"' for name, value in self._environment.items())]
              if self._environment else []),
        ]  # fmt: skip
        (folder / "sshd_config").write_text("\n".join([*settings, ""]), encoding="utf-8")
