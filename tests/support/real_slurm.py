"""A real Slurm on this machine for the length of a test: a controller, some nodes and munge, as child processes.

Needs root and Debian's packages (22.05, 24.11 and 26.05 were tried); no systemd, no database, and cgroups only where
jobs' memory is to be limited. The nodes are pretended: each is a ``slurmd`` of its own port, and jobs run as plain
processes here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.ports import free_ports, listens
from tests.support.real_server import RealServer

PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "sinfo")
REST_PACKAGES = "slurmrestd slurm-wlm-jwt-plugin"
JWT_PLUGIN = "slurm-wlm/auth_jwt.so"
READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 10.0

GPU_PARTITION = "PartitionName=gpu Nodes=ALL Default=YES MaxTime=120 State=UP"
QUICK = ("SchedulerParameters=batch_sched_delay=0,sched_interval=1",)
"""A batch job starts half a second after it came. Without, Slurm waits up to three seconds for others to come."""

CONFIGURATION = """\
ClusterName=tidegate
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters={consumable}
AccountingStorageType=accounting_storage/none
KillWait=5
MinJobAge=300
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_ports}] CPUs=4 RealMemory=1000{gres}
"""

MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
LIMITED_MEMORY = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={MEMORY_CGROUPS.parent}
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""


def why_no_limits() -> str | None:
    """Why this machine's kernel cannot hold a job to its memory; None if it can."""
    if os.access(MEMORY_CGROUPS / "cgroup.procs", os.W_OK):
        return None
    return f"needs cgroups of version 1 that may be written to, at {MEMORY_CGROUPS}"


def why_not(*, rest: bool = False) -> str | None:
    """What is missing for a real Slurm on this machine (with slurmrestd), and how to mend it; None if nothing is."""
    absent = [command for command in (*NEEDED, *(["slurmrestd"] if rest else [])) if _command(command) is None]
    if rest and not any(Path("/usr/lib").glob(f"*/{JWT_PLUGIN}")):
        absent.append(JWT_PLUGIN)
    if absent:
        packages = f"{PACKAGES} {REST_PACKAGES}" if rest else PACKAGES
        return f"needs Slurm ({', '.join(absent)} not found): apt-get install --no-install-recommends {packages}"
    return None if os.geteuid() == 0 else "needs to be root, as Slurm's daemons do"


def _command(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def installed_release() -> str:
    """As ``22.05.8``."""
    told = subprocess.run(
        [_command("slurmctld") or "slurmctld", "-V"], capture_output=True, text=True, timeout=30, check=True
    )
    return told.stdout.split()[1]


class RealSlurm(RealServer):
    """``with RealSlurm(4, ["PartitionName=batch Nodes=ALL Default=YES"]) as slurm``: ready on entry, gone on exit.

    ``partitions`` and ``options`` are lines of slurm.conf; ``rest`` brings slurmrestd at ``rest_url``, for which
    ``scontrol token`` makes tokens; ``gpus_per_node`` are counted, but are no devices; with ``memory_limits`` the
    kernel ends what takes more than its job asked for. Jobs that still run on exit are cancelled. Raises
    ``RuntimeError`` with the daemons' last words if the cluster does not come up.
    """

    rest_url = ""
    release = ""

    def __init__(
        self, nodes: int, partitions: Sequence[str], options: Sequence[str] = (), *, rest: bool = False,
        gpus_per_node: int = 0, memory_limits: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._nodes = nodes
        self._rest = rest
        self._memory_limits = memory_limits
        self._gpus_per_node = gpus_per_node
        self._lines = [*options, *partitions]
        self._folder = Path()

    def _why_not(self) -> str | None:
        return why_not(rest=self._rest)

    def _begin(self) -> None:
        self.release = installed_release()
        # Below /var/tmp, since munge wants every folder above its socket to be safe from others and open to pass.
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/var/tmp")))
        self._folder.chmod(0o755)
        self._configure()
        self._start("munged", "--foreground", f"--key-file={self._folder}/munge.key",
                    f"--socket={self._folder}/munge.socket", f"--pid-file={self._folder}/munged.pid",
                    f"--seed-file={self._folder}/munge.seed", f"--log-file={self._folder}/munged.log")  # fmt: skip
        self._wait_for(lambda: (self._folder / "munge.socket").exists())
        self._start_accounting()
        self._start("slurmctld", "-D", "-f", str(self._folder / "slurm.conf"))
        for node in self._names():
            if self._memory_limits:
                self._open.callback((MEMORY_CGROUPS / f"slurm_{node}").rmdir)  # which slurmd leaves behind
            self._start("slurmd", "-D", "-f", str(self._folder / "slurm.conf"), "-N", node)
        self._wait_for(self._all_idle)
        if self._rest:
            self._start_rest()
        self._open.callback(self._cancel_all)

    @property
    def is_22_05(self) -> bool:
        """The oldest that there is; what it lacks came with the next releases."""
        return self.release.startswith("22.05")

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self._folder / "slurm.conf")}

    @property
    def folder(self) -> Path:
        """Everything of this cluster, for jobs to write to as well; gone with it."""
        return self._folder

    def command(self, *words: str) -> str:
        """Standard output of one of Slurm's commands. Raises ``RuntimeError`` with what it said if it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def wait_until_empty(self, within_s: float) -> None:
        """Until no job waits or runs. Raises ``RuntimeError`` after ``within_s``."""
        self._wait_for(lambda: not self.command("squeue", "-h", "-o", "%i").strip(), within_s, period_s=0.5)

    def _configure(self) -> None:
        folder = self._folder
        controller_port, *node_ports, rest_port = free_ports(self._nodes + 2)
        self.rest_url = f"http://127.0.0.1:{rest_port}" if self._rest else ""
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0], folder=folder, nodes=self._nodes,
            controller_port=controller_port, node_ports=f"{node_ports[0]}-{node_ports[-1]}",
            gres=f" Gres=gpu:{self._gpus_per_node}" if self._gpus_per_node else "",
            task_plugin="task/cgroup" if self._memory_limits else "task/none",
            consumable="CR_Core_Memory" if self._memory_limits else "CR_Core",
        )  # fmt: skip
        gres_types = ["GresTypes=gpu"] if self._gpus_per_node else []
        tokens = ["AuthAltTypes=auth/jwt", f"AuthAltParameters=jwt_key={folder}/jwt.key"] if self._rest else []
        (folder / "slurm.conf").write_text("\n".join([*gres_types, text, *tokens, *self._lines, ""]), encoding="utf-8")
        if self._memory_limits:
            (folder / "cgroup.conf").write_text(LIMITED_MEMORY, encoding="utf-8")
        elif not self.is_22_05:
            (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n", encoding="utf-8")
        if self._gpus_per_node:
            for number in range(self._gpus_per_node):
                (folder / f"gpu{number}").touch()
            gres = f"Name=gpu File={folder}/gpu[0-{self._gpus_per_node - 1}]\n"
            (folder / "gres.conf").write_text(gres, encoding="utf-8")
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        (folder / "jwt.key").write_bytes(secrets.token_bytes(32))
        (folder / "jwt.key").chmod(0o600)
        (folder / "state").mkdir()
        for node in self._names():
            (folder / f"spool-{node}").mkdir()

    def _names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self._nodes + 1)]

    def _start_accounting(self) -> None:
        """There is none, but in ``AccountedSlurm``."""

    def _start_rest(self) -> None:
        """As nobody: it refuses to be root, or the user that slurmctld runs as."""
        host, _, port = self.rest_url.removeprefix("http://").partition(":")
        without_database = "v0.0.38" if self.is_22_05 else "slurmctld"
        self._start("slurmrestd", "-f", str(self._folder / "slurm.conf"), "-s", without_database, "-a", "rest_auth/jwt",
                    f"{host}:{port}", user="nobody", extra={"SLURM_JWT": "daemon"})  # fmt: skip
        self._wait_for(lambda: listens(int(port)))

    def _start(
        self, name: str, *arguments: str, user: str | None = None, extra: Mapping[str, str] | None = None
    ) -> None:
        log = self._open.enter_context((self._folder / f"{name}.out").open("ab"))
        process = subprocess.Popen(
            [_command(name) or name, *arguments], env={**self.environment, **(extra or {})},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", user=user,
            group="nogroup" if user else None, extra_groups=[] if user else None,
        )  # fmt: skip
        self._open.callback(_end, process)

    def _all_idle(self) -> bool:
        states = self.command("sinfo", "-h", "-N", "-o", "%N %T").split()[1::2]
        return len(states) >= self._nodes and set(states) == {"idle"}

    def _wait_for(self, done: Callable[[], bool], within_s: float = READY_WITHIN_S, period_s: float = 0.1) -> None:
        ends_at = time.monotonic() + within_s
        problem = "nothing was heard of it"
        while time.monotonic() < ends_at:
            try:
                if done():
                    return
            except RuntimeError as error:
                problem = str(error)
            time.sleep(period_s)
        raise RuntimeError(f"Slurm is not as far within {within_s:g} s: {problem}\n{self._last_words()}")

    def _last_words(self) -> str:
        outputs = sorted(self._folder.glob("*.out"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in outputs)

    def _cancel_all(self) -> None:
        """No partition takes or starts a job any more, so that a broker that runs cannot replace what is cancelled."""
        for partition in set(self.command("sinfo", "-h", "-o", "%R").split()):
            self.command("scontrol", "update", f"PartitionName={partition}", "State=INACTIVE")
        if jobs := self.command("squeue", "-h", "-o", "%i").split():
            self.command("scancel", *jobs)
            self.wait_until_empty(READY_WITHIN_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(ENDED_WITHIN_S)
