"""The node agent's parts that need no process: what it is written in, what it reads, what it counts."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm import agent, node_probe
from actuators.slurm.agent import (
    AgentError,
    BadMessage,
    Chunked,
    Sized,
    Status,
    memory_kills,
    parse_head,
    read_settings,
)
from broker.model import agents, wire
from broker.model.agents import AgentPhase, AgentReport, DrainCause, EndCause
from broker.model.starts import StartPlace

SOURCE = Path(agent.__file__).read_text(encoding="utf-8")
ON_NODES = {"agent": SOURCE, "probe": Path(node_probe.__file__).read_text(encoding="utf-8")}
on_nodes = pytest.mark.parametrize("source", ON_NODES.values(), ids=ON_NODES)
SETTINGS = {
    "broker_url": "http://broker:8600", "action_id": "launch-1", "cluster": "hpc", "model_id": "chat", "ordinal": 0,
    "generation": 1,
}  # fmt: skip


@on_nodes
def test_what_runs_on_nodes_is_written_in_python_3_9_and_needs_its_standard_library_alone(source: str) -> None:
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert imported <= sys.stdlib_module_names


@on_nodes
def test_what_runs_on_nodes_uses_nothing_that_came_after_python_3_9(source: str) -> None:
    tree = ast.parse(source)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match | ast.TryStar)]
    later = {"TaskGroup", "timeout", "timeout_at", "Runner", "UTC", "StrEnum", "tomllib", "pairwise", "ExceptionGroup"}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & later
    slotted = [
        keyword
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("slots", "kw_only", "strict", "process_group")
    ]
    assert not slotted
    aliases = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)]
    assert not [node for node in aliases if isinstance(node.value.op, ast.BitOr)], "a union at run time"  # type: ignore[attr-defined]


def test_what_the_agent_reports_is_what_the_broker_reads() -> None:
    told = Status(
        "ended", "done", "http://n1:1", 1.0, {"cause": "wall_time", "by": 2.0}, agent._end("crashed", "x", -9),
        {"node_class": "gpu:h100", "weights_cached": True},
    )  # fmt: skip
    body = dict(
        dataclasses.asdict(told), boot_id="0123abcd", sequence=1, observed_at=3.0, cluster="hpc", model_id="chat",
        ordinal=0, generation=1, node="n1", job_id=7, restarts=0, in_flight=None, end_at=None,
    )  # fmt: skip
    report: AgentReport = wire.loads(AgentReport, json.dumps({"schema": agent.REPORT_SCHEMA, "data": body}))
    assert body.keys() == {field.name for field in dataclasses.fields(AgentReport)}
    assert report.drain == agents.DrainRequest(DrainCause.WALL_TIME, 2.0)
    assert report.end == agents.AgentEnd(EndCause.CRASHED, "x", None, 9)
    assert report.start_place == StartPlace("gpu:h100", weights_cached=True)
    assert report.phase is AgentPhase.ENDED
    assert agent.HEARTBEAT_S == agents.HEARTBEAT_S


BAD_SETTINGS: list[tuple[str, str, str]] = [
    ("nothing", "", "is not JSON"),
    ("no object", "[]", "is no JSON object"),
    ("half of it", "{}", "lacks broker_url, action_id, cluster, model_id, ordinal, generation"),
    ("ports the wrong way", json.dumps(SETTINGS | {"ports": [9, 8]}), "no range"),
    ("a broker without a scheme", json.dumps(SETTINGS | {"broker_url": "broker:8600"}), "no http:// or https:// URL"),
]


@pytest.mark.parametrize(("text", "words"), [b[1:] for b in BAD_SETTINGS], ids=[b[0] for b in BAD_SETTINGS])
def test_bad_settings_are_told_in_one_line(text: str, words: str, capfd: Any) -> None:
    with pytest.raises(AgentError, match=words):
        read_settings(text)
    assert agent.main(["serve"], {"TIDEGATE_AGENT": text, "TIDEGATE_AGENT_TOKEN": "t"}) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_no_token_and_no_command_are_told_in_one_line(capfd: Any) -> None:
    assert agent.main(["serve"], {"TIDEGATE_AGENT": json.dumps(SETTINGS)}) == 2
    assert "TIDEGATE_AGENT_TOKEN" in capfd.readouterr().err
    assert agent.main([], {"TIDEGATE_AGENT": json.dumps(SETTINGS), "TIDEGATE_AGENT_TOKEN": "t"}) == 2
    assert "no engine's command" in capfd.readouterr().err


def test_settings_of_a_newer_script_are_read_as_far_as_they_are_known() -> None:
    settings = read_settings(json.dumps(SETTINGS | {"weather": "fine", "ports": [20000, 20010]}))
    assert (settings.ports, settings.front) == ((20000, 20010), True)


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    rest=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_the_end_of_a_body_in_chunks_is_found_however_it_comes(
    chunks: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    body = b"".join(b"%X\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    data, framing, taken = body + rest, Chunked(), 0
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        if framing.done:
            break
        taken += framing.take(data[start:end])
        assert taken <= len(body)
    assert (framing.done, taken) == (True, len(body))


@pytest.mark.parametrize(
    "data", [b"x\r\n", b"-1\r\n", b"5\n", b"\r\n", b"0x5\r\n", b"1" * 20 + b"\r\n", b"1;" + b"x" * 9000]
)
def test_a_chunk_that_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        Chunked().take(data)


def test_a_body_of_known_length_ends_there() -> None:
    body = Sized(5)
    assert (body.take(b"abc"), body.done, body.take(b"defgh"), body.done) == (3, False, 2, True)


@given(st.binary(max_size=200))
def test_whatever_comes_as_a_head_is_read_or_refused(data: bytes) -> None:
    try:
        head = parse_head(data + b"\r\n\r\n")
        head.body(Sized(0))
    except BadMessage:
        pass


def test_kills_for_want_of_memory_are_counted_in_the_jobs_own_groups(tmp_path: Path) -> None:
    job = tmp_path / "system.slice/slurmstepd.scope/job_7"
    (job / "step_batch/user/task_0").mkdir(parents=True)
    (job / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    (job / "step_batch/user/task_0/memory.events").write_text("oom_kill 0\n")
    (tmp_path / "memory.events").write_text("oom_kill 99\n")  # the node's, of whomever
    own = tmp_path / "cgroup"
    own.write_text("0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n")
    assert memory_kills(str(own), str(tmp_path)) == 2


def test_kills_for_want_of_memory_are_counted_in_the_older_groups_too(tmp_path: Path) -> None:
    step = tmp_path / "memory/slurm/uid_0/job_7/step_batch"
    step.mkdir(parents=True)
    (step / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    own = tmp_path / "cgroup"
    own.write_text("5:cpuset:/slurm/uid_0/job_7\n4:memory:/slurm/uid_0/job_7/step_batch\n")
    assert memory_kills(str(own), str(tmp_path)) == 1


def test_without_groups_no_kill_is_known(tmp_path: Path) -> None:
    assert memory_kills(str(tmp_path / "cgroup"), str(tmp_path)) == 0
