"""The broker and its commands as real processes on this machine: sockets, signals, pipes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from actuators.local import procfs
from actuators.local.records import parse_claim
from cli.output import Exit
from tests.support.command_line import run, start, tidegate
from tests.support.waiting import until

pytestmark = pytest.mark.integration

T = TypeVar("T")

POLICIES = """\
models:
  chat:
    engine: {command: [sleep, "1000", "{port}"]}
    min: 0
    max: 1
    policy: {kind: threshold, rules: [{signal: queue_age_s, above: 2s, for: 10s, change: +1}]}
"""


def make_site(folder: Path) -> Path:
    """A site of `tidegate init`, on a port of the kernel's choice, whose model wants no replica."""
    assert tidegate("init", folder).exit_code == 0
    site = folder / "site.yaml"
    site.write_text(site.read_text().replace("port: 8600", "port: 0"))
    (folder / "policies.yaml").write_text(POLICIES)
    return folder


def address_of(folder: Path, process: subprocess.Popen[str]) -> str:
    def written() -> str | None:
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        return (folder / "address").read_text() if (folder / "address").exists() else None

    return until(written, "the broker is ready")


def phases(client: httpx.Client) -> list[str]:
    return [replica["phase"] for replica in client.get("/v1/replicas").json()["replicas"]]


def ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    """(status, standard error) after a signal, without mercy after 20 s."""
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site")


@pytest.fixture
def broker(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start("run", "--address-file", "address", folder=folder)
    try:
        yield process, address_of(folder, process)
    finally:
        if process.poll() is None:
            ended(process)


def test_a_second_site_with_the_same_state_dir_is_refused(
    folder: Path, broker: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    """Two logs and one ``state_dir``: each broker adopted the other's replicas."""
    process, _ = broker
    other = make_site(tmp_path / "other")
    site = other / "site.yaml"
    site.write_text(site.read_text().replace("state_dir: var/replicas", f"state_dir: {folder / 'var' / 'replicas'}"))
    status, _, err = run("run", folder=other)
    assert status == Exit.REFUSED
    assert f"pools.local.state_dir: the records in {folder / 'var' / 'replicas'} are in use by process" in err
    assert str(process.pid) in err


def test_a_pool_with_replicas_on_record_cannot_just_be_removed(folder: Path) -> None:
    """They stayed on record for ever, counted as supply, and nothing could stop them."""
    (folder / "policies.yaml").write_text(POLICIES.replace("min: 0", "min: 1"))
    process = start("run", "--address-file", "address", folder=folder)
    try:
        with httpx.Client(base_url=address_of(folder, process), headers=headers(folder), trust_env=False) as client:
            until(lambda: "starting" in phases(client), "a replica starts")
            ended(process)
        site = folder / "site.yaml"
        declared = site.read_text()
        site.write_text(declared.replace("  local:\n", "  other:\n"))
        status, _, err = run("run", folder=folder)
        assert status == Exit.USAGE
        assert "pools.local: is not declared any more, but chat-0-g1 on record there" in err
        assert "declare the pool again" in err
    finally:
        if process.poll() is None:
            ended(process)
        end_replicas(folder)


def end_replicas(folder: Path) -> None:
    """Kill what the site started, by the identities in its records, and take the exit status if it is ours."""
    for path in (folder / "var" / "replicas").rglob("*.claim"):
        identity = parse_claim(path.read_text()).process
        if identity is not None:
            procfs.send_signal(identity, signal.SIGKILL)


def headers(folder: Path, scope: str = "operate") -> dict[str, str]:
    return {"Authorization": f"Bearer {(folder / 'secrets' / scope).read_text().strip()}"}


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_open_streams_do_not_delay_the_end(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    """uvicorn waits for open responses until its grace is over; ours end when the broker does."""
    process, url = broker
    with (
        httpx.Client(base_url=url, headers=headers(folder, "gateway"), timeout=20, trust_env=False) as client,
        client.stream("GET", "/v1/endpoints/stream") as one,
        client.stream("GET", "/v1/endpoints/stream") as other,
    ):
        assert one.headers["content-type"].startswith("text/event-stream")
        first, second = events(one), events(other)
        assert next(first)[0] == next(second)[0] == "snapshot"
        kind, lease = next(first)
        assert (kind, lease["revision"]) == ("lease", 0)
        process.send_signal(signal.SIGTERM)
        for stream in (first, second):
            assert {kind for kind, _ in stream} <= {"lease"}  # and then its regular end: no cut connection
    status, err = ended(process)
    assert status == 0, err
    assert "Traceback" not in err
    assert "ancel" not in err, "uvicorn had to cancel what was open"


@pytest.mark.parametrize("where", ["full disk", "reader gone"])
def test_a_broker_whose_log_lines_cannot_be_written_goes_on_with_its_steps(folder: Path, where: str) -> None:
    """It stayed alive, held the lock, said that it led, and never stepped again."""
    if where == "full disk":
        destination = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, destination = os.pipe()
        os.close(reading)
    process = start("run", "--address-file", "address", folder=folder, errors=destination)
    os.close(destination)
    try:
        with httpx.Client(base_url=address_of(folder, process), headers=headers(folder), trust_env=False) as client:
            order = {"model_id": "chat", "target": 1, "for_s": 60, "because": "a test", "author": "tests"}
            assert client.post("/v1/overrides", json=order).status_code == 200
            assert until(lambda: phases(client), "a replica is on record")[0] in ("requested", "pending", "starting")
            assert client.get("/healthz").json()["status"] == "ok"
            assert re.search(r"^tidegate_log_lines_lost_total [1-9]", client.get("/metrics").text, re.MULTILINE)
        assert ended(process)[0] == 0
    finally:
        if process.poll() is None:
            ended(process)
        end_replicas(folder)


def test_a_follower_that_vanishes_is_forgotten(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    process, url = broker
    host, port = url.removeprefix("http://").split(":")
    token = headers(folder)["Authorization"]
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"GET /v1/endpoints/stream HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode()
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert httpx.get(f"{url}/healthz", trust_env=False).json()["status"] == "ok"
    status, err = ended(process)
    assert (status, "Traceback" in err) == (0, False), err


def test_every_answer_goes_over_a_real_socket(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    _, url = broker
    with httpx.Client(base_url=url, headers=headers(folder), timeout=20, trust_env=False) as client:
        for path in ("/v1/models", "/v1/replicas", "/v1/decisions", "/v1/prometheus/targets", "/metrics", "/healthz"):
            assert client.get(path).status_code == 200, path
        assert client.get("/v1/explain/chat").status_code in (200, 404)
        for scope, size, status in (("operate", 2**20, 403), ("gateway", 9 * 2**20, 413)):
            answer = client.put("/v1/gateways/x", content=b" " * size, headers=headers(folder, scope))
            assert answer.status_code == status  # told, not just cut off in the middle of sending
        assert client.get("/v1/models", headers=[(b"Authorization", b"Bearer \xff")]).status_code == 401
        body = {"model_id": "chat", "target": 0, "for_s": 60, "because": "x", "author": "y"}
        assert client.post("/v1/overrides", json=body).json()["target"] == 0


def test_a_second_broker_is_refused(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    status, _, err = run("run", folder=folder)
    assert status == Exit.REFUSED
    assert f"process {broker[0].pid}" in err
    assert "Traceback" not in err


def test_a_taken_port_is_told(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site = folder / "site.yaml"
        site.write_text(site.read_text().replace("port: 0", f"port: {taken.getsockname()[1]}"))
        result = tidegate("run", "--site", site, "--policies", folder / "policies.yaml")
    assert (result.exit_code, "api.port" in result.output) == (Exit.USAGE, True)


def test_what_the_broker_cannot_use_is_told(folder: Path) -> None:
    command: list[str | Path] = ["run", "--site", folder / "site.yaml", "--policies", folder / "policies.yaml"]
    result = tidegate(*command, "--address-file", folder / "nowhere" / "address")
    assert (result.exit_code, "nowhere/address" in result.output.replace("\n", "")) == (Exit.USAGE, True)
    shutil.rmtree(folder / "var")
    result = tidegate(*command)
    assert (result.exit_code, "does not exist" in result.output) == (Exit.FAILED, True)
    (folder / "secrets" / "site").unlink()
    result = tidegate(*command)
    assert (result.exit_code, "site_secret" in result.output) == (Exit.USAGE, True)


def test_ctrl_c_ends_the_broker_in_order(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    status, err = ended(broker[0], signal.SIGINT)
    assert (status, "Traceback" in err) == (0, False), err
    assert "broker_stopping" in err


def test_more_than_one_ctrl_c_ends_the_broker_no_differently(broker: tuple[subprocess.Popen[str], str]) -> None:
    def ends_under_another() -> bool:
        """One after the other through its end, the interpreter's own included."""
        broker[0].send_signal(signal.SIGINT)
        return broker[0].poll() is not None

    until(ends_under_another, "the broker ends")
    status, err = ended(broker[0])
    assert (status, "Traceback" in err) == (0, False), err


def test_a_reader_that_goes_away_is_no_failure(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    for words in (["policy", "schema"], ["models"], ["models", "--json"]):
        environment = {"TIDEGATE_BROKER": broker[1], "TIDEGATE_SITE": "site.yaml"}
        process = start(*words, folder=folder, environment=environment)
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), words


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = start("explain", "chat", folder=tmp_path, environment={"TIDEGATE_BROKER": address})
        connection, _ = silent.accept()
        with connection:
            status, err = ended(process, signal.SIGINT)
    assert (status, err) == (Exit.INTERRUPTED, "")


def test_the_shell_completion_is_for_tidegate(tmp_path: Path) -> None:
    environment = {"_TIDEGATE_COMPLETE": "source_bash"}
    status, out, _ = run(folder=tmp_path, environment=environment)
    assert status == 0
    assert "complete -o default -F _tidegate_completion tidegate" in out


def test_json_logs_are_one_document_a_line(folder: Path, broker: tuple[subprocess.Popen[str], str]) -> None:
    _, err = ended(broker[0])
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"leadership_taken", "broker_ready", "broker_stopping"} <= {line["event"] for line in lines}
    secrets = [(folder / "secrets" / name).read_text().strip() for name in os.listdir(folder / "secrets")]
    assert not any(secret in err for secret in secrets if len(secret) > 10)
