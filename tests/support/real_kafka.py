"""A real Apache Kafka on this machine for the length of a test: one node or three, as child processes that end with it.

Each node is broker and controller (KRaft). They listen on loopback, their data is in a temporary folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from tests.support import kafka_jars
from tests.support.ports import free_ports, listens
from tests.support.real_server import RealServer
from tests.support.waiting import until

TLS_PACKAGES = "openssl"
READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 15.0
USER, PASSWORD = "tidegate", "tide-and-gate"
"""May do everything."""
GUEST, GUEST_PASSWORD = "guest", "let-me-in"
"""May do nothing, until it is given rights."""

SETTINGS = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners={listeners}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
log.dirs={folder}/data
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.index.size.max.bytes=1048576
log.cleaner.threads=1
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=8388608
log.retention.check.interval.ms=5000
log.segment.delete.delay.ms=1000
num.network.threads=2
num.io.threads=4
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
"""
RIGHTS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{user}
"""
PLAIN_USERS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'user_{USER}="{PASSWORD}" user_{GUEST}="{GUEST_PASSWORD}";'
)
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
LOGGING = """\
status=error
appender.file.type=File
appender.file.name=file
appender.file.fileName={folder}/server.log
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
"""
# Compiled lightly: a test is over before more would pay, and two cores have other things to do.
JAVA = ("java", "-Xms64m", "-Xmx{heap_mib}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Listener(StrEnum):
    """By Kafka's own names of their protocols."""

    PLAINTEXT = "PLAINTEXT"
    SASL = "SASL_PLAINTEXT"
    TLS = "SSL"
    SASL_TLS = "SASL_SSL"


def why_not(*, secured: bool = False) -> str | None:
    """What is missing for a real Kafka on this machine (with TLS), and how to mend it; None if nothing is."""
    if secured and shutil.which("openssl") is None:
        return f"needs openssl: apt-get install --no-install-recommends {TLS_PACKAGES}"
    if shutil.which("setpriv") is None:
        return "needs setpriv, which ends Kafka with the process that started it: apt-get install util-linux"
    return kafka_jars.why_not()


class RealKafka(RealServer):
    """``with RealKafka(3) as kafka``: ready on entry, gone on exit, also if this process is killed.

    ``secured`` adds the listeners that want a password (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512) and TLS, and lets nobody
    but ``USER`` and whoever comes by the plain listener do anything without an ACL. ``options`` are further lines of
    each node's settings. Nodes are counted from 1. Raises ``RuntimeError`` with the nodes' last words if they do not
    come up.
    """

    def __init__(
        self, nodes: int = 1, options: Sequence[str] = (), *, secured: bool = False, heap_mib: int = 256
    ) -> None:
        super().__init__()
        self.nodes = range(1, nodes + 1)
        self.folder = Path()
        self._options = options
        self._listeners = list(Listener) if secured else [Listener.PLAINTEXT]
        self._java = [word.format(heap_mib=heap_mib) for word in JAVA]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ports: dict[tuple[int, str], int] = {}

    def _why_not(self) -> str | None:
        return why_not(secured=self._secured)

    def _begin(self) -> None:
        self.folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="kafka-")))
        # A child told to end with its parent ends with the thread that started it: one that lives as long as this.
        self._starter = self._open.enter_context(ThreadPoolExecutor(1))
        self._open.callback(self.stop)
        self._configure()
        self._format()
        self.start()

    @property
    def bootstrap_servers(self) -> str:
        return self.servers(Listener.PLAINTEXT)

    def servers(self, listener: Listener) -> str:
        return ",".join(f"127.0.0.1:{self._ports[node, listener]}" for node in self.nodes)

    @property
    def authority(self) -> Path:
        """The certificate that a client of a TLS listener trusts."""
        return self.folder / "authority.pem"

    def start(self) -> None:
        """All nodes that do not run, with their data; returns when they take clients."""
        self._start([node for node in self.nodes if not self.runs(node)])

    def restart(self, node: int) -> None:
        """With its data, whether it runs or not; returns when it takes clients."""
        self._end([node])
        self._start([node])

    def stop(self) -> None:
        """All nodes, in order where that does not take too long."""
        self._end([node for node in self.nodes if self.runs(node)])

    def kill(self, node: int) -> None:
        """As a crash."""
        self._processes[node].kill()
        self._processes[node].wait(ENDED_WITHIN_S)

    def pause(self, node: int) -> None:
        """As a machine that hangs: its connections stay, and nothing answers."""
        self._processes[node].send_signal(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        self._processes[node].send_signal(signal.SIGCONT)

    def controller(self) -> int:
        """The node that leads the others' quorum, as far as they know."""
        about = [self._of(node) / "data" / "__cluster_metadata-0" / "quorum-state" for node in self.nodes]
        newest = max((json.loads(path.read_text()) for path in about), key=lambda quorum: int(quorum["leaderEpoch"]))
        return int(newest["leaderId"])

    def data(self, node: int) -> Path:
        """The folder of its messages."""
        return self._of(node) / "data"

    def runs(self, node: int) -> bool:
        return node in self._processes and self._processes[node].poll() is None

    @property
    def _secured(self) -> bool:
        return len(self._listeners) > 1

    def _configure(self) -> None:
        names = [*self._listeners, "CONTROLLER"]
        ports = iter(free_ports(len(self.nodes) * len(names)))
        self._ports = {(node, name): next(ports) for node in self.nodes for name in names}
        if self._secured:
            self._certify()
        for node in self.nodes:
            folder = self._of(node)
            folder.mkdir()
            (folder / "server.properties").write_text("\n".join(self._settings(node)), encoding="utf-8")
            (folder / "log4j2.properties").write_text(LOGGING.format(folder=folder), encoding="utf-8")

    def _settings(self, node: int) -> list[str]:
        several = len(self.nodes) > 1
        settings = SETTINGS.format(
            node=node, folder=self._of(node), replicas=3 if several else 1, in_sync=2 if several else 1,
            voters=",".join(f"{one}@127.0.0.1:{self._ports[one, 'CONTROLLER']}" for one in self.nodes),
            listeners=",".join(
                f"{name}://127.0.0.1:{self._ports[node, name]}" for name in [*self._listeners, "CONTROLLER"]
            ),
            protocols=",".join(f"{name}:{name}" for name in self._listeners),
        )  # fmt: skip
        return [settings, *(self._security() if self._secured else []), *self._options, ""]

    def _security(self) -> list[str]:
        mechanisms = ("SCRAM-SHA-256", "SCRAM-SHA-512")
        lines = [RIGHTS.format(user=USER), f"sasl.enabled.mechanisms=PLAIN,{','.join(mechanisms)}"]
        for listener in (Listener.SASL, Listener.SASL_TLS):
            prefix = f"listener.name.{listener.lower()}"
            lines.append(f"{prefix}.plain.sasl.jaas.config={PLAIN_USERS}")
            lines += [f"{prefix}.{mechanism.lower()}.sasl.jaas.config={SCRAM}" for mechanism in mechanisms]
        return [*lines, "ssl.keystore.type=PEM", f"ssl.keystore.location={self.folder}/server.pem"]

    def _certify(self) -> None:
        """A certificate for loopback that is its own authority."""
        key = self.folder / "key.pem"
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                 "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
                 "-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign",
                 "-keyout", str(key), "-out", str(self.authority)]  # fmt: skip
        subprocess.run(words, check=True, capture_output=True, timeout=30)
        (self.folder / "server.pem").write_text(key.read_text() + self.authority.read_text())

    def _format(self) -> None:
        """Each node's data begins as the first one's, but for its numbers: to format them one by one takes long."""
        first, *others = self.nodes
        users = []
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            for user, password in ((USER, PASSWORD), (GUEST, GUEST_PASSWORD)):
                users += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        words = ["format", "-t", _unique(), "-c", str(self._of(first) / "server.properties")]
        done = subprocess.run(
            [*self._command(first), "kafka.tools.StorageTool", *words, *(users if self._secured else [])],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_WITHIN_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"Kafka's data was not formatted: {done.stdout}{done.stderr}")
        about = (self._of(first) / "data" / "meta.properties").read_text().splitlines()
        kept = [line for line in about if line.partition("=")[0] not in ("node.id", "directory.id")]
        for node in others:
            shutil.copytree(self._of(first) / "data", self._of(node) / "data")
            own = [f"node.id={node}", f"directory.id={_unique()}"]
            (self._of(node) / "data" / "meta.properties").write_text("\n".join([*kept, *own, ""]))

    def _of(self, node: int) -> Path:
        return self.folder / f"node{node}"

    def _command(self, node: int) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._of(node)}/log4j2.properties"
        return [*self._java, logging, "-cp", f"{kafka_jars.JARS}/*"]

    def _start(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            self._processes[node] = self._starter.submit(self._started, node).result()
        for node in nodes:
            self._wait_for(node)

    def _started(self, node: int) -> subprocess.Popen[bytes]:
        with (self._of(node) / "output.log").open("ab") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command(node), "kafka.Kafka",
                 str(self._of(node) / "server.properties")],
                env=os.environ | {"LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, cwd=self._of(node),
            )  # fmt: skip

    def _wait_for(self, node: int) -> None:
        ports = [self._ports[node, listener] for listener in self._listeners]
        what = f"node {node} of Kafka takes clients"
        try:
            until(lambda: all(map(listens, ports)), what, READY_WITHIN_S, by=self._processes[node])
        except AssertionError as error:
            raise RuntimeError(f"{error}\n{self._last_words(node)}") from None

    def _last_words(self, node: int) -> str:
        logs = sorted(self._of(node).glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in logs)

    def _end(self, nodes: Sequence[int]) -> None:
        processes = [self._processes[node] for node in nodes]
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        ends_at = time.monotonic() + ENDED_WITHIN_S
        for process in processes:
            try:
                process.wait(max(0.0, ends_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(ENDED_WITHIN_S)


def _unique() -> str:
    """What Kafka takes for an identity; one that begins with a hyphen would be an option of its tools."""
    return "k" + secrets.token_urlsafe(16)[1:]
