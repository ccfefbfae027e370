"""Bad files, options and messages: each is a sentence that says where, with the right status, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.app.faultpoints import VARIABLE
from cli.output import Exit
from tests.faults.cluster import cluster, policies_yaml, site_yaml

pytestmark = pytest.mark.integration

SECRETS = {
    "TIDEGATE_SITE_SECRET": "a" * 48,
    "TIDEGATE_READ_TOKEN": "r" * 48,
    "TIDEGATE_OPERATE_TOKEN": "o" * 48,
    "TIDEGATE_GATEWAY_TOKEN": "g" * 48,
}
TRACE = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
1,ChatGPT,10,20,30,API log
2,ChatGPT,ten,20,30,API log
3,ChatGPT,10,20,30,API log
"""


def tidegate(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=folder,
        env=os.environ | SECRETS | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def files(folder: Path, *, port: int = 0, policies: str | None = None) -> None:
    (folder / "site.yaml").write_text(site_yaml("bad-input", port))
    (folder / "policies.yaml").write_text(policies or policies_yaml())


def test_a_malformed_trace_row_is_named_by_line_and_column_and_can_be_skipped_and_counted(tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / "trace.csv").write_text(TRACE)
    for command in (
        ("trace", "info", "trace.csv"),
        ("simulate", "--trace", "trace.csv", "--site", "site.yaml", "--policies", "policies.yaml"),
        ("demo", "--headless", "--trace", "trace.csv"),
    ):
        done = tidegate(tmp_path, *command)
        assert done.returncode == Exit.USAGE, done.stderr
        assert "trace.csv:3:11" in done.stderr.replace("\n", "")
    lenient = tidegate(tmp_path, "trace", "info", "trace.csv", "--skip-bad")
    assert lenient.returncode == Exit.OK, lenient.stderr
    assert "1" in lenient.stdout


def test_an_unknown_policy_field_is_named_by_file_line_and_field_before_anything_starts(tmp_path: Path) -> None:
    files(tmp_path, policies=policies_yaml().replace("min: 1", "minimum_replicas: 1"))
    for status, command in (
        (Exit.USAGE, ("run", "--site", "site.yaml", "--policies", "policies.yaml")),
        (Exit.FAILED, ("policy", "lint", "policies.yaml")),
    ):
        done = tidegate(tmp_path, *command)
        assert done.returncode == status, done.stderr
        told = (done.stderr + done.stdout).replace("\n", "")
        assert "policies.yaml:6" in told
        assert "minimum_replicas" in told
    assert not (tmp_path / "tidegate.sqlite").exists()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        files(tmp_path, port=port)
        done = tidegate(tmp_path, "run", "--site", "site.yaml", "--policies", "policies.yaml")
        assert done.returncode in (Exit.FAILED, Exit.USAGE)
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr.replace("\n", " ")
        gateway = tidegate(tmp_path, "gateway", "--port", str(port), "--broker", "http://127.0.0.1:1")
        assert gateway.returncode in (Exit.FAILED, Exit.USAGE)
        assert str(port) in gateway.stderr


def test_a_fault_point_that_is_none_is_refused(tmp_path: Path) -> None:
    files(tmp_path)
    run = ("run", "--site", "site.yaml", "--policies", "policies.yaml")
    done = tidegate(tmp_path, *run, **{VARIABLE: "after_lunch:2"})
    assert done.returncode == Exit.USAGE
    assert "after_lunch" in done.stderr
    assert "after_publish" in done.stderr


async def test_messages_that_are_none_are_refused_and_the_broker_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, gateway=False) as running:
        good: dict[str, object] = {"boot_id": "b", "sequence": 1, "applied_revision": 0, "observed_at": 1.0}
        async with running.operator("GATEWAY") as client:
            for number, text in enumerate(
                (
                    "not json",
                    "[]",
                    '{"boot_id": "b"}',
                    '{"boot_id": "b", "sequence": 1, "applied_revision": 0, "observed_at": NaN}',
                    '{"boot_id": "b", "sequence": 1, "applied_revision": 0, "observed_at": 1e999}',
                    '{"boot_id": "b", "sequence": -1, "applied_revision": 0, "observed_at": 1.0}',
                    '{"boot_id": "\\ud800", "sequence": 1, "applied_revision": 0, "observed_at": 1.0}',
                )
            ):
                headers = {"Content-Type": "application/json"}
                answer = await client.put(f"/v1/gateways/bad-{number}", content=text, headers=headers)
                assert answer.status_code == 422, text
            odd: tuple[dict[str, object], ...] = (
                {"summaries": [{"model_id": "chat"}, {"model_id": 3}, {"a": float(2**70)}]},
                {"applied_revision": 2**70, "sequence": 2**70},
                {"in_flight": {"nobody": 2**70}},
            )
            for number, extra in enumerate(odd):
                answer = await client.put(f"/v1/gateways/odd-{number}", json=good | extra)
                assert answer.status_code in (200, 422)
        await running.scale(2)
        await running.settled(2)
        assert (await running.get("/healthz"))["status"] == "ok"
        running.no_traceback()
