"""Each parser's normaliser, and the client above it, on what real slurmrestds answered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from actuators.slurm.client import SubmitUnclear
from actuators.slurm.job import COMMENT_MARK, JobRecord, JobSpec, JobState, WarningSignal
from actuators.slurm.rest.client import RestClient
from actuators.slurm.rest.parsers import family_of
from actuators.slurm.rest.stream import MOST_HELD
from actuators.slurm.rest.tokens import Tokens
from broker.model.errors import ActionRejected, ActuatorError, TransientError
from tests.support.fake_slurmrestd import FakeSlurmrestd, FixedClock, jwt, recorded
from tests.support.shared_data import shared_path

RECORDINGS = (
    "22.05.8-v0.0.38",
    "24.11.5-v0.0.40",
    "24.11.5-v0.0.41",
    "24.11.5-v0.0.42",
    "26.05.5-v0.0.42",
    "26.05.5-v0.0.43",
    "26.05.5-v0.0.44",
    "26.05.5-v0.0.45",
)

JOB = JobSpec(
    "tide-rec", "tidegate:replica=r1", "#!/bin/sh\nsleep 30\n", "gpu", 300.0, "/tmp/rec.%j.out", "/tmp",
    gpus=1, gpu_type="h100", environment={"PATH": "/usr/bin:/bin", "TIDE": "1"}, warning=WarningSignal("USR1", 60),
)  # fmt: skip


@pytest.fixture(params=RECORDINGS)
def folder(request: pytest.FixtureRequest) -> Path:
    return shared_path("slurm/recordings") / str(request.param)


@pytest.fixture
def newest() -> Path:
    return shared_path("slurm/recordings") / RECORDINGS[-1]


class Asking:
    """A client of a recorded slurmrestd."""

    def __init__(self, folder: Path, *, parser: str | None = None, **answers: str | httpx.Response) -> None:
        self.server = FakeSlurmrestd(folder, **answers)
        clock = FixedClock()
        self.client = RestClient(
            "http://login1:6820", Tokens(_token, clock), clock, parser=parser, transport=self.server
        )

    async def __aenter__(self) -> RestClient:
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


async def _token() -> str:
    return jwt()


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[RestClient]:
    async with Asking(folder) as client:
        yield client


async def test_the_newest_parser_that_both_know_is_chosen(folder: Path) -> None:
    asking = Asking(folder)
    async with asking as client:
        await client.jobs()
        await client.jobs()
    assert asking.server.calls[-3:] == ["ping", "jobs", "jobs"]
    assert asking.server.asked[-1].url.path.split("/")[2] == asking.server.parser


async def test_jobs_are_asked_for_without_the_cores_of_each_where_the_parser_can(folder: Path) -> None:
    """DETAIL is what 24.11 and later take for granted: it lists every core, in half of each record and more."""
    asking = Asking(folder)
    async with asking as client:
        await client.jobs()
    assert asking.server.asked[-1].url.query == (b"" if folder.name.endswith("v0.0.38") else b"flags=ALL")


async def test_every_recorded_job_is_read_but_for_the_traces_of_refused_ones(folder: Path, client: RestClient) -> None:
    listed = recorded(folder, "jobs")["body"]["jobs"]
    records = await client.jobs()
    assert [record.job_id for record in records] == [
        raw["job_id"] for raw in listed if raw["state_reason"] != "BadConstraints"
    ]
    assert {record.user for record in records} == {"root"}
    assert all(record.nodes == ("n1",) for record in records if record.started_at)


async def test_a_running_job_is_read_in_full(folder: Path) -> None:
    raw = recorded(folder, "job")["body"]["jobs"][0]
    record = family_of(folder.name.partition("-")[2]).job(raw)
    assert (record.name, record.comment, record.partition, record.restarts) == (
        "tide-rec",
        "tidegate:replica=r1",
        "gpu",
        0,
    )
    assert record.state in (JobState.RUNNING, JobState.PENDING)
    assert record.time_limit_s == 300.0
    assert record.submitted_at is not None
    assert record.output == f"/tmp/rec.{record.job_id}.out"
    assert (record.exit_code, record.exit_signal) == (None, None)
    if record.state is JobState.RUNNING:
        assert record.started_at is not None
        assert record.end_at == pytest.approx(record.started_at + 300.0, abs=1.0)
    else:
        assert (record.started_at, record.end_at, record.nodes, record.reason) == (None, None, (), "Priority")


async def test_a_cancelled_job_tells_its_signal_and_its_end(folder: Path) -> None:
    record = family_of(folder.name.partition("-")[2]).job(recorded(folder, "job-cancelled")["body"]["jobs"][0])
    assert (record.state, record.exit_code, record.exit_signal) == (JobState.CANCELLED, None, 15)
    assert record.gone
    assert record.end_at is not None


async def test_a_submission_asks_for_what_the_recorded_one_asked_for(folder: Path) -> None:
    """Ours may say more, and differently where a schema is not to be believed."""
    body = family_of(folder.name.partition("-")[2]).submission(JOB)
    real = recorded(folder, "submit")["request"]["body"]
    assert ("script" in body) == ("script" in real)
    differing = {"gres", "signal", "kill_warning_delay", "script"}
    assert {name: body["job"][name] for name in real["job"] if name not in differing} == {
        name: value for name, value in real["job"].items() if name not in differing
    }


async def test_a_submission_tells_the_job_id(folder: Path, client: RestClient) -> None:
    assert await client.submit(JOB) == recorded(folder, "submit")["body"]["job_id"]


@pytest.mark.parametrize(
    ("recording", "word"), [("err-bad-partition", "partition gpu"), ("err-too-many-gpus", "gpu:h100:1")]
)
async def test_a_refused_submission_is_rejected_in_a_sentence(folder: Path, recording: str, word: str) -> None:
    async with Asking(folder, submit=recording) as client:
        with pytest.raises(ActionRejected) as refused:
            await client.submit(JOB)
    assert word in str(refused.value)
    assert "login1:6820" in str(refused.value)


@pytest.mark.parametrize("recording", ["err-bad-token", "err-expired-token", "err-no-token"])
async def test_a_token_that_is_not_accepted_is_never_an_empty_list(folder: Path, recording: str) -> None:
    async with Asking(folder, jobs=recording) as client:
        with pytest.raises((ActionRejected, TransientError), match="token"):
            await client.jobs()


@pytest.mark.parametrize("recording", ["delete", "delete-again", "err-unknown-job-delete"])
async def test_ending_a_job_that_is_gone_or_unknown_is_success(folder: Path, recording: str) -> None:
    async with Asking(folder, delete=recording) as client:
        await client.cancel(46)
        await client.signal(46, "USR1")


async def test_a_site_is_told(folder: Path, client: RestClient) -> None:
    facts = await client.facts()
    assert facts.release == folder.name.partition("-")[0]
    assert [(each.name, each.up, each.nodes, each.max_time_s, each.default_time_s) for each in facts.partitions] == [
        ("gpu", True, 4, 86400.0, 600.0),
        ("scavenge", True, 4, 86400.0, 600.0),
    ]
    assert facts.reservations == ()
    assert facts.user == "root"
    assert facts.clock_skew_s is not None


@pytest.mark.parametrize(("counted", "gpus"), [("", None), (",gres/gpu=16", 16), (",gres/gpumem=16", None)])
def test_a_partitions_gpus_are_those_that_slurm_counts(folder: Path, counted: str, gpus: int | None) -> None:
    answer = json.dumps(recorded(folder, "partitions")).replace("node=4,", f"node=4{counted},")
    raw = json.loads(answer)["body"]["partitions"][0]
    assert family_of(folder.name.partition("-")[2]).partition(raw).gpus == gpus


@pytest.mark.parametrize("folder", ["26.05.5-v0.0.43", "26.05.5-v0.0.44", "26.05.5-v0.0.45"], indirect=True)
def test_a_reservation_without_an_end_is_read(folder: Path) -> None:
    answer = recorded(folder, "reservation-create")
    raw = answer["body"]["reservations"][0]
    reservation = family_of(folder.name.partition("-")[2]).reservation(raw)
    assert (reservation.name, reservation.nodes, reservation.maintenance) == ("tidegate-loan1", ("n4",), True)
    assert reservation.end_at == float("inf")


@pytest.mark.parametrize("recording", ["err-no-token", "err-unknown-path"])
async def test_a_submission_answered_with_words_alone_is_no_job(folder: Path, recording: str) -> None:
    async with Asking(folder, submit=recording) as client:
        with pytest.raises((ActionRejected, TransientError)) as refused:
            await client.submit(JOB)
    assert not isinstance(refused.value, SubmitUnclear)


def test_a_parser_that_is_not_ours_is_refused_by_name() -> None:
    with pytest.raises(ActionRejected, match=r"v0\.0\.37.*v0\.0\.45.*v0\.0\.38"):
        family_of("v0.0.37")


async def test_a_slurmrestd_without_a_common_parser_is_told_with_what_to_start_it_with() -> None:
    async with Asking(shared_path("slurm/recordings") / "22.05.8-v0.0.37") as client:
        with pytest.raises(ActionRejected, match="slurmrestd -s"):
            await client.jobs()


async def test_a_named_parser_that_is_not_spoken_is_told() -> None:
    async with Asking(shared_path("slurm/recordings") / "22.05.8-v0.0.38", parser="v0.0.45") as client:
        with pytest.raises(ActionRejected, match=r"does not speak v0\.0\.45"):
            await client.jobs()


async def test_after_an_update_of_slurmrestd_a_parser_is_chosen_anew() -> None:
    asking = Asking(shared_path("slurm/recordings") / "22.05.8-v0.0.38")
    async with asking as client:
        await client.jobs()
        asking.server.become(shared_path("slurm/recordings") / "26.05.5-v0.0.45")
        with pytest.raises(TransientError, match="chosen next"):
            await client.jobs()
        assert (await client.facts()).release == "26.05.5"


MALFORMED = [
    pytest.param({"errors": ["no object"]}, id="an error that is no object"),
    pytest.param({"errors": [None]}, id="an error that is nothing"),
    pytest.param({"errors": [], "status": [1]}, id="a status that is a number"),
    pytest.param({"errors": [], "meta": [], "warnings": ["no object"]}, id="a warning that is no object"),
]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("status", [200, 500])
async def test_a_malformed_answer_says_nothing_of_jobs_and_leaves_a_submission_unclear(
    status: int, body: dict[str, object]
) -> None:
    answer = httpx.Response(status, json=body)
    folder = shared_path("slurm/recordings") / "24.11.5-v0.0.42"
    async with Asking(folder, jobs=answer, submit=answer, delete=answer, partitions=answer) as client:
        for call in (client.jobs, client.facts):
            with pytest.raises(TransientError):
                await call()
        with pytest.raises(ActuatorError):
            await client.submit(JOB)
        with contextlib.suppress(ActuatorError):
            await client.cancel(7)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"jobs": [' + "[" * 100_000, '{"jobs": [{"a": "' + "x" * MOST_HELD])
async def test_an_answer_that_never_ends_is_no_answer(text: str) -> None:
    """Nested without end, or long without end: the first passed as a mistake of ours, the second filled the memory."""
    answer = httpx.Response(200, text=text)
    async with Asking(shared_path("slurm/recordings") / "24.11.5-v0.0.42", jobs=answer, submit=answer) as client:
        with pytest.raises(TransientError):
            await client.jobs()
        with pytest.raises(SubmitUnclear):
            await client.submit(JOB)


@pytest.mark.parametrize(
    "changes",
    [
        {"job_id": None},
        {"job_id": float("inf")},
        {"job_state": None},
        {"job_state": [["RUNNING"]]},
        {"exit_code": "0"},
        {"restart_cnt": []},
        {"nodes": "n[0-3000000]"},
    ],
    ids=str,
)
async def test_a_record_of_another_shape_is_told_by_whose_it_may_be(changes: dict[str, object]) -> None:
    folder = shared_path("slurm/recordings") / "24.11.5-v0.0.42"
    listed = recorded(folder, "jobs")["body"]
    good = listed["jobs"][0]
    foreign = {**listed, "jobs": [good, {**good, **changes, "comment": "my own"}]}
    async with Asking(folder, jobs=httpx.Response(200, text=json.dumps(foreign))) as client:
        assert len(await client.jobs()) == 1
    ours = {**listed, "jobs": [good, {**good, **changes, "comment": "tidegate: x"}]}
    async with Asking(folder, jobs=httpx.Response(200, text=json.dumps(ours))) as client:
        with pytest.raises(TransientError, match="may be ours"):
            await client.jobs()


async def test_a_job_without_its_users_name_is_not_overlooked() -> None:
    """slurmrestd on a machine without the site's user database knows numbers only."""
    folder = shared_path("slurm/recordings") / "22.05.8-v0.0.38"
    listed = recorded(folder, "jobs")["body"]
    nameless = {**listed, "jobs": [{**raw, "user_name": ""} for raw in listed["jobs"]]}
    async with Asking(folder, jobs=httpx.Response(200, json=nameless)) as client:
        with pytest.raises(TransientError, match="user database"):
            await client.jobs()


def in_states(told: list[dict[str, Any]]) -> list[JobRecord]:
    """Each as it was listed before: the records of a cluster with one state for each."""
    return [
        JobRecord(int(raw["job_id"]), "tide", "root", COMMENT_MARK, "gpu", JobState(raw["state"][0])) for raw in told
    ]


@pytest.mark.parametrize("folder", [name for name in RECORDINGS if not name.endswith(("38", "40"))], indirect=True)
async def test_jobs_are_told_to_be_as_they_were_by_their_states_alone(folder: Path) -> None:
    jobs = in_states(recorded(folder, "jobs-state")["body"]["jobs"])
    asking = Asking(folder, parser=folder.name.partition("-")[2])
    async with asking as client:
        assert await client.unchanged(jobs)
        assert await client.unchanged([*jobs[1:], replace(jobs[0], state=JobState.SUSPENDED)]) is False
        assert await client.unchanged([*jobs, replace(jobs[0], job_id=999_999)]) is False
    assert asking.server.calls == ["jobs-state"] * 3
    assert asking.server.asked[0].url.params.get_list("job_id") == [str(job.job_id) for job in jobs]


async def test_without_a_job_of_ours_one_is_asked_for_all_the_same_since_no_name_means_all(newest: Path) -> None:
    asking = Asking(newest, parser="v0.0.45")
    async with asking as client:
        assert await client.unchanged([])
    assert asking.server.asked[-1].url.query == b"job_id=1"


async def test_a_slurmrestd_without_the_address_is_not_asked_for_states() -> None:
    asking = Asking(shared_path("slurm/recordings") / "22.05.8-v0.0.38")
    async with asking as client:
        await client.jobs()
        assert await client.unchanged([]) is None
    assert "jobs-state" not in asking.server.calls


def states(*told: object, **others: object) -> httpx.Response:
    return httpx.Response(200, text=json.dumps({"jobs": told, "errors": [], **others}))


ONE: dict[str, Any] = {"job_id": "1", "state": ["RUNNING"]}
TWO: dict[str, Any] = {"job_id": 2, "state": ["PENDING"]}


@pytest.mark.parametrize(
    ("answer", "unchanged"),
    [
        pytest.param(states(ONE, TWO), True, id="as they were"),
        pytest.param(states(ONE, TWO, {"job_id": "12_[1-3]", "state": []}), True, id="with one that nobody asked for"),
        pytest.param(states(ONE, {**TWO, "state": ["RUNNING"]}), False, id="in another state"),
        pytest.param(states(ONE, {**TWO, "state": ["PENDING", "REQUEUED"]}), False, id="with a flag more"),
        pytest.param(states(ONE), False, id="without one of them"),
        pytest.param(states(ONE, TWO, {**TWO, "state": ["RUNNING"]}, TWO), False, id="told twice, not alike"),
        pytest.param(states(ONE, {**TWO, "job_id": 2.0}), False, id="an id that is no whole number"),
        pytest.param(states(ONE, {**TWO, "state": "PENDING"}), None, id="a state that is no list"),
        pytest.param(states(ONE, {**TWO, "state": ["DREAMING"]}), None, id="a state that is none"),
        pytest.param(states(ONE, TWO, 3), None, id="a job that is a number"),
        pytest.param(states(ONE, TWO, errors={"error": "x"}), None, id="with errors that are no list"),
        pytest.param(states(ONE, TWO, jobs=None), None, id="without jobs"),
        pytest.param(httpx.Response(200, text="<html>"), None, id="no JSON"),
        pytest.param(httpx.Response(403, text="not here"), None, id="a proxy that lets only listings through"),
        pytest.param(httpx.ReadError("cut"), None, id="a connection that is cut"),
        pytest.param("err-bad-token", None, id="a token that is not accepted"),
        pytest.param("err-unknown-path", None, id="an address that is not there, as before Slurm 24"),
    ],
)
async def test_jobs_are_as_they_were_only_if_all_are_told_so(newest: Path, answer: Any, unchanged: bool | None) -> None:
    jobs = in_states([ONE, TWO])
    async with Asking(newest, parser="v0.0.45", jobs_state=answer) as client:
        assert await client.unchanged(jobs) is unchanged


async def test_a_token_that_a_proxy_repeats_is_not_told(newest: Path) -> None:
    async with Asking(newest, jobs=httpx.Response(403, text=f"you said {jwt()}")) as client:
        with pytest.raises(ActionRejected, match="you said <token>"):
            await client.jobs()


async def test_a_user_whom_no_header_can_name_is_told(newest: Path) -> None:
    clock = FixedClock()
    server = FakeSlurmrestd(newest)
    client = RestClient("http://login1:6820", Tokens(_token, clock), clock, user="jörg", transport=server)
    with pytest.raises(ActionRejected, match="'jörg' cannot be told to slurmrestd"):
        await client.jobs()
    await client.close()
