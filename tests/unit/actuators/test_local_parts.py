from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.local import command, logs, ports, procfs
from actuators.local.actuator import LocalActuator
from actuators.local.lock import records_locked
from actuators.local.records import Claim, LocalRecord, Marks, RecordStore, parse_claim
from broker.model import wire
from broker.model.errors import CapacityUnavailable, ConfigError, LeadershipRefused
from broker.model.replica import StopMode
from broker.model.spec import PLACEHOLDERS, EngineSpec, JsonValue, PoolSpec
from tests.support.actuator_worlds import SetClock

RECORD = LocalRecord("launch-1", "here", "pool", "org/chat-0-g1", "org/chat", 1, 1, ("0",), "127.0.0.1", 8001, 1.5)
IDENTITY = procfs.ProcessIdentity("boot", 17, 4242)
CLAIM_TEXT = f"{wire.dumps(RECORD)}\nboot 17 4242\n"


@pytest.mark.parametrize(
    ("argument", "becomes"),
    [
        pytest.param("{python}", sys.executable, id="the broker's interpreter"),
        pytest.param("http://{host}:{port}/", "http://127.0.0.1:8001/", id="inside an argument"),
        pytest.param("{model}/{replica}", "org/chat/org/chat-0-g1", id="names"),
        pytest.param('{"a": {"b": 1}}', '{"a": {"b": 1}}', id="JSON is left alone"),
        pytest.param("{unknown} {", "{unknown} {", id="other braces too"),
    ],
)
def test_placeholders_are_replaced(argument: str, becomes: str) -> None:
    assert command.arguments(EngineSpec((argument,)), RECORD) == [becomes]


def test_every_placeholder_that_the_settings_accept_is_replaced() -> None:
    given = tuple(f"{{{name}}}" for name in PLACEHOLDERS)
    assert not set(given) & set(command.arguments(EngineSpec(given), RECORD))


class TestRecordsLock:
    def test_a_second_broker_on_the_same_records_is_told_who_works_with_them(self, tmp_path: Path) -> None:
        with (
            records_locked(tmp_path / "state", "pool"),
            pytest.raises(LeadershipRefused, match=rf"pools\.pool\.state_dir: .* in use by process {os.getpid()} on "),
            records_locked(tmp_path / "state", "pool"),
        ):
            pass

    def test_other_pools_and_later_brokers_are_free(self, tmp_path: Path) -> None:
        for _ in range(2):
            with records_locked(tmp_path, "one"), records_locked(tmp_path, "two/2"):
                pass

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be used"), records_locked(tmp_path / "file" / "state", "pool"):
            pass


def test_a_replica_gets_its_key_and_identity_but_none_of_the_site_s_secrets() -> None:
    inherited = {"PATH": "/bin", "TIDEGATE_SITE_SECRET": "s3cret", "VLLM_API_KEY": "the operator's"}
    engine = EngineSpec(("vllm",), environment={"HF_HOME": "/models", "VLLM_API_KEY": "fixed"})
    assert command.environment(inherited, engine, RECORD, Path("/var/pool"), "key") == {
        "PATH": "/bin",
        "HF_HOME": "/models",
        "CUDA_VISIBLE_DEVICES": "0",
        "VLLM_API_KEY": "key",
        "TIDEGATE_ACTION_ID": "launch-1",
        "TIDEGATE_CLUSTER": "here",
        "TIDEGATE_REPLICA_ID": "org/chat-0-g1",
        "TIDEGATE_RECORD": wire.dumps(RECORD),
        "TIDEGATE_RECORDS": "/var/pool",
    }


def test_a_claim_reads_back_as_written() -> None:
    assert parse_claim(CLAIM_TEXT) == Claim(RECORD, IDENTITY)


@given(st.integers(0, len(CLAIM_TEXT) - 1))
def test_a_claim_cut_anywhere_never_names_a_process_wrongly(length: int) -> None:
    claim = parse_claim(CLAIM_TEXT[:length])
    assert claim.record in (None, RECORD)
    assert claim.process is None


@given(st.text())
def test_any_text_is_a_claim_or_a_damaged_one(text: str) -> None:
    parse_claim(text)


def test_records_are_kept_by_action_id_whatever_its_characters(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "pool")
    store.prepare()
    for action in ("launch-1", "../escape/é", "a.b"):
        store.claim_path(action).write_text(CLAIM_TEXT)
        store.write_marks(action, Marks(StopMode.KILL, ended_at=2.0))
        assert store.is_claimed(action)
        assert store.marks(action) == Marks(StopMode.KILL, ended_at=2.0)
    assert set(store.claims()) == {"launch-1", "../escape/é", "a.b"}
    store.forget("a.b", now=10.0)
    assert store.is_claimed("a.b")
    assert set(store.claims()) == {"launch-1", "../escape/é"}
    assert store.expire(before=11.0) == ["org/chat-0-g1"]
    assert not store.is_claimed("a.b")


def test_damaged_marks_are_no_marks(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    (tmp_path / "launch-1.marks").write_bytes(b"\xff\0{")
    assert store.marks("launch-1") == Marks()


def test_our_own_process_is_read_with_its_session() -> None:
    boot = procfs.boot_id()
    process = procfs.read_process(os.getpid(), boot)
    assert process is not None
    assert (process.pid, process.parent, process.session) == (os.getpid(), os.getppid(), os.getsid(0))
    assert not process.ended
    assert os.getpid() in procfs.sessions()[os.getsid(0)]


def test_a_signal_for_another_start_of_the_same_pid_is_not_sent() -> None:
    process = procfs.read_process(os.getpid(), procfs.boot_id())
    assert process is not None
    for other in (
        procfs.ProcessIdentity(process.identity.boot_id, os.getpid(), process.identity.start_ticks + 1),
        procfs.ProcessIdentity("another boot", os.getpid(), process.identity.start_ticks),
    ):
        assert procfs.send_signal(other, signal.SIGKILL) is False


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]
)
def test_a_listening_socket_is_found_with_its_owner(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        port = listening.getsockname()[1]
        assert not [found for found in procfs.listeners() if found.port == port]
        listening.listen()
        (found,) = [found for found in procfs.listeners() if found.port == port]
        assert found.address == socket.inet_pton(family, host)
        assert found.inode in set(procfs.sockets_of(os.getpid()))


def test_a_port_with_a_listener_or_one_already_promised_is_not_chosen() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(CapacityUnavailable, match="no free port"):
            ports.choose_port("127.0.0.1", (), range(port, port + 1))
    assert ports.choose_port("127.0.0.1", (), range(port, port + 1)) == port
    with pytest.raises(CapacityUnavailable, match="widen"):
        ports.choose_port("127.0.0.1", {port}, range(port, port + 1))


@given(lines=st.lists(st.integers(0, 60), max_size=80), limit=st.integers(100, 2000))
def test_a_trimmed_log_is_under_its_limit_and_ends_as_it_did(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], limit: int
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    path = logs.log_path(directory, "chat-0-g1")
    written = [f"{number}:" + "x" * length for number, length in enumerate(lines)]
    path.write_text("".join(line + "\n" for line in written))
    logs.trim(path, limit)
    kept = logs.read_log(directory, "chat-0-g1", tail_lines=1000)
    assert sum(part.stat().st_size for part in directory.iterdir()) <= limit
    assert kept == (written[-len(kept) :] if kept else [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"gpu_ids": 3}, "not a list of devices", id="devices that are no list"),
        pytest.param({"gpu_ids": [0]}, "1 devices for 2 GPUs", id="too few devices"),
        pytest.param({"ports": [9000, 8000]}, "not \\[first, last\\]", id="ports the wrong way round"),
        pytest.param({"ports": "8000-9000"}, "not \\[first, last\\]", id="ports as text"),
    ],
)
def test_a_wrong_pool_option_is_named(tmp_path: Path, options: dict[str, JsonValue], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LocalActuator(
            PoolSpec("pool", "local", gpus=2, options=options),
            tmp_path,
            tmp_path,
            endpoint_key=lambda replica_id, generation: "key",
            cluster="here",
            clock=SetClock(),
        )
