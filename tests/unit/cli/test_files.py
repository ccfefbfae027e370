"""Commands on files: what is missing, unreadable or wrong is told in words, with the right status."""

from __future__ import annotations

import asyncio
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest

from broker.log.sqlite import SqliteLog
from cli.output import Exit
from cli.progress import Paced, progress_lines
from cli.reporting import plan_left_out
from simulator.report.document import loads
from tests.support.builders import step_record
from tests.support.command_line import ROOT, tidegate
from tests.support.simulated import SmallRun, small_request

POLICIES = ROOT / "deploy" / "examples" / "policies.yaml"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def bad_traces(folder: Path) -> dict[str, Path]:
    (folder / "empty.csv").write_text("")
    (folder / "rows.csv").write_text(BURST + "5,ChatGPT,a,3,4,Conversation log\n")
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    (folder / "broken.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 no more")
    return {
        "missing": folder / "nope.csv", "a folder": folder, "empty": folder / "empty.csv",
        "bad row": folder / "rows.csv", "binary": folder / "binary.csv", "broken gzip": folder / "broken.csv.gz",
    }  # fmt: skip


KINDS = ["missing", "a folder", "empty", "bad row", "binary", "broken gzip"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_that_cannot_be_read_is_told(tmp_path: Path, kind: str) -> None:
    path = bad_traces(tmp_path)[kind]
    commands: list[list[str | Path]] = [
        ["trace", "info", path], ["simulate", "--trace", path, "--policies", POLICIES],
    ]  # fmt: skip
    for words in commands:
        result = tidegate(*words)
        assert result.exit_code == Exit.USAGE, result.output
        assert str(path) in result.output.replace("\n", "")
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_simulate_needs_policies_a_known_model_and_a_window(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(BURST + "".join(f"{at},ChatGPT,50,10,60,Conversation log\n" for at in range(5)))
    wrong: list[list[str | Path]] = [
        ["--policies", tmp_path / "nope.yaml"],
        ["--policies", POLICIES, "--model", "nope"],
        ["--policies", POLICIES, "--window", "yesterday"],
        ["--policies", POLICIES, "--site", tmp_path / "nope.yaml"],
    ]
    for words in wrong:
        result = tidegate("simulate", "--trace", trace, *words)
        assert result.exit_code == Exit.USAGE, result.output
        assert "error:" in result.output


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        ("100h..101h", "the window 4d4h..4d5h holds no request; the trace spans 1h; choose another --window"),
        ("30m..2h", "the window 30m..2h holds no request to replay: all 2 of its rows failed where they were recorded"),
    ],
    ids=["no row", "failed rows only"],
)
def test_a_window_without_requests_is_a_mistake_of_the_command_line(tmp_path: Path, span: str, problem: str) -> None:
    """The replicas of an idle run were simulated, with status 1."""
    trace = tmp_path / "trace.csv"
    rows = [(0, 10), (1800, 0), (3600, 0)]
    trace.write_text(BURST + "".join(f"{at},ChatGPT,50,{out},60,Conversation log\n" for at, out in rows))
    result = tidegate("simulate", "--trace", trace, "--policies", POLICIES, "--window", span, "--json")
    assert result.exit_code == Exit.USAGE
    assert not result.stdout
    assert f"trace.csv: {problem}" in " ".join(result.stderr.split())


def test_a_rate_at_which_no_request_is_left_is_told_on_both_channels(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(BURST + "5,ChatGPT,50,10,60,Conversation log\n")
    result = tidegate("simulate", "--trace", trace, "--policies", POLICIES, "--rate-scale", "0.000001", "--json")
    problem = "of the 1 rows of the trace none is left at 1e-06 times the rate"
    assert result.exit_code == Exit.FAILED
    assert json.loads(result.stdout)["problems"] == [problem]
    assert problem in " ".join(result.stderr.split())


def test_what_is_counted_is_the_window_and_not_what_the_reader_read(tmp_path: Path) -> None:
    """Blocks of some thousand rows were counted whole: rows less failed ones were not those sent."""
    trace = tmp_path / "trace.csv"
    rows = [(0, 10), (5, 0), (60, 10), (70, 0), (80, 10), (120, 10), (130, 0)]
    trace.write_text(BURST + "".join(f"{at},ChatGPT,50,{out},{50 + out},Conversation log\n" for at, out in rows))
    result = tidegate("simulate", "--trace", trace, "--policies", POLICIES, "--window", "1m..2m", "--json")
    summary = json.loads(result.stdout)
    assert summary["trace"] == {"rows": 3, "failed": 1, "bad": 0, "window": "1m..2m", "rate_scale": 1.0}
    assert summary["requests"]["sent"] == 2


def absurd_trace(folder: Path) -> Path:
    path = folder / "trace.csv"
    rows = ("2023-11-16 18:17:03.0,50,10", "9999-12-31 23:59:59.0,50,10")
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return path


def test_a_trace_of_millennia_is_told_and_not_replayed(tmp_path: Path) -> None:
    """Two rows, one with a mistaken year, were simulated without an end."""
    path = absurd_trace(tmp_path)
    for words in (["simulate", "--policies", POLICIES], ["demo", "--headless"], ["demo", "--rate-scale", "2"]):
        result = tidegate(*words, "--trace", path)
        assert result.exit_code == Exit.USAGE, result.output
        assert "the date of a row before or after that is wrong" in result.output
    result = tidegate("trace", "info", path)
    assert (result.exit_code, "not to be replayed: it spans" in result.output) == (Exit.OK, True)


@pytest.mark.parametrize(
    "words",
    [
        ["--tail", "1e308"],
        ["--tail", "inf"],
        ["--tail", "nan"],
        ["--rate-scale", "1e308"],
        ["--rate-scale", "nan"],
        ["--metric-loss", "nan"],
        ["--metric-loss", "2"],
        ["--cached-share", "nan"],
        ["--cached-share", "-1"],
        ["--metric-delay", "soon"],
        ["--routing", "somehow"],
    ],
    ids=" ".join,
)
def test_simulate_refuses_figures_without_bounds(words: list[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(BURST + "0,ChatGPT,50,10,60,Conversation log\n")
    result = tidegate("simulate", "--trace", trace, "--policies", POLICIES, *words)
    assert result.exit_code == Exit.USAGE, result.output


def test_a_simulation_tells_what_prefix_caches_had_and_lives_with_lost_metrics(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 4000 * n, "input_length": 1024, "output_length": 9, "hash_ids": [1, 2]} for n in range(9)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words: list[str | Path] = ["simulate", "--trace", trace, "--policies", POLICIES]
    for further in ([], ["--routing", "prefix-affine"], ["--metric-loss", "0.5", "--metric-delay", "300ms"]):
        result = tidegate(*words, *further, "--json")
        assert result.exit_code == Exit.OK, result.output
        assert json.loads(result.stdout)["cached_tokens"] == 8 * 1008, "all but the last block of 16"
    assert "(88% from prefix caches)" in " ".join(tidegate(*words).stdout.split())


def test_a_rate_that_a_short_window_does_not_reach_is_told(tmp_path: Path) -> None:
    """Twice the rate of two rows sent two: the copy had turned its busy hour elsewhere, and nothing said so."""
    trace = tmp_path / "trace.csv"
    seconds = [*range(0, 60, 10), *(60 + 0.5 * n for n in range(400))]
    trace.write_text(BURST + "".join(f"{at},ChatGPT,50,10,60,Conversation log\n" for at in seconds))
    words: list[str | Path] = ["simulate", "--trace", trace, "--policies", POLICIES, "--window", "..1m", "--json"]
    (note,) = json.loads(tidegate(*words, "--rate-scale", "2").stdout)["notes"]
    assert "sent of 6 recorded: x " in note
    assert "in this window and not x 2: superpose shifts copies over the whole trace" in note
    assert "--scale-method correlated multiplies within the window" in note
    for options in ([], ["--rate-scale", "2", "--scale-method", "correlated"]):
        assert json.loads(tidegate(*words, *options).stdout)["notes"] == []


def test_a_run_stands_beside_another_under_its_files_name(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(BURST + "0,ChatGPT,50,10,60,Conversation log\n")
    words: list[str | Path] = ["simulate", "--trace", trace, "--policies", POLICIES]
    (tmp_path / "before.json").write_text(tidegate(*words, "--json").stdout)
    shown = tidegate(*words, "--against", tmp_path / "before.json").stdout
    assert "before.json against this run" in shown


def test_a_simulation_that_served_nothing_is_a_failure_and_waits_for_nobody(tmp_path: Path) -> None:
    trace, policies = tmp_path / "trace.csv", tmp_path / "policies.yaml"
    trace.write_text(BURST + "0,ChatGPT,50,10,60,Conversation log\n")
    policies.write_text(
        "models: {chat: {engine: {command: [serve, '{port}']}, min: 0, max: 0, policy: {kind: threshold, "
        "rules: [{signal: queue_age_s, above: 2s, for: 10s, change: +1}]}}}"
    )
    result = tidegate("simulate", "--trace", trace, "--policies", policies, "--json")
    assert result.exit_code == Exit.FAILED, result.output
    summary = json.loads(result.stdout)
    assert (summary["requests"]["unfinished"], summary["duration_s"]) == (1, 60.0)


class TestProgress:
    def test_it_is_shown_by_the_clock_also_while_no_request_comes(self) -> None:
        """The bar moved with every two hundredth request only: not once in ten idle hours."""
        seconds = iter([0.0, 4.0, 10.0, 11.0, 20.5])
        shown: list[tuple[float, int]] = []
        paced = Paced(lambda percent, count: shown.append((percent, count)), 200.0, lambda: next(seconds), 10.0)
        for simulated_s in (-60.0, 50.0, 60.0, 900.0):
            paced(simulated_s, 7)
        assert shown == [(25.0, 7), (100.0, 7)]

    def test_lines_name_what_goes_on_and_are_not_said_again(self) -> None:
        """Six runs said "simulating: 100%" once in ten seconds, through tails and batch jobs."""
        lines: list[str] = []
        show, stage = progress_lines("plan that knows the future, 2 of at most 5", lines.append)
        for percent in (1.0, 3.0, 50.0, 100.0, 100.0, 100.0):
            show(percent, 7)
        stage("batch jobs without replicas")
        assert lines == [
            "plan that knows the future, 2 of at most 5: 1%, 7 requests",
            "plan that knows the future, 2 of at most 5: 50%, 7 requests",
            "plan that knows the future, 2 of at most 5: 100%, 7 requests",
            "plan that knows the future, 2 of at most 5: batch jobs without replicas",
        ]

    def test_a_run_tells_it_through_silent_hours(self) -> None:
        told: list[float] = []
        SmallRun(tail_s=0.0).run([small_request(0.0), small_request(300.0)], lambda second, count: told.append(second))
        assert max(later - earlier for earlier, later in pairwise(told)) <= 1.0


def test_trace_info_tells_a_servegen_shape_by_its_figures(tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text("t_s,rate_rps\n0,2\n600,4\n")
    told = json.loads(tidegate("trace", "info", rates, "--json").stdout)
    assert told["figures"] == {"span_s": 1200.0, "mean_per_s": 3.0, "peak_per_s": 4.0, "windows": 2.0}
    assert "ServeGen rates" in tidegate("trace", "info", rates).stdout


def test_trace_info_tells_as_json_too(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(BURST + "".join(f"{at},ChatGPT,50,10,60,Conversation log\n" for at in range(5)))
    assert json.loads(tidegate("trace", "info", trace, "--json").stdout)["rows"] == 5
    assert "requests a minute" in tidegate("trace", "info", trace).stdout


def test_lint_shows_brackets_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(POLICIES.read_text().replace("signal: queue_age_s", "signal: queue_ages", 1))
    result = tidegate("policy", "lint", path)
    assert result.exit_code == Exit.FAILED
    assert "rules[0]" in result.stdout  # a result: `| less` shows it


def test_lint_tells_as_json_and_strictly(tmp_path: Path) -> None:
    told = json.loads(tidegate("policy", "lint", POLICIES, "--json").stdout)
    assert set(told) == {"problems", "warnings"}
    assert tidegate("policy", "lint", tmp_path / "nope.yaml").exit_code == Exit.USAGE


def test_the_schema_of_either_file_is_printed() -> None:
    for which in ("policies", "site"):
        assert json.loads(tidegate("policy", "schema", which).stdout)["$id"] == f"urn:tidegate:{which}.yaml"
    assert tidegate("policy", "schema", "other").exit_code == Exit.USAGE


@pytest.fixture
def log(tmp_path: Path) -> Path:
    async def write() -> None:
        log = SqliteLog(tmp_path / "log.sqlite")
        epoch = await log.acquire_leadership("test")
        for number in (1, 2):
            await log.commit(step_record(number, epoch=epoch.number))
        await log.close()

    asyncio.run(write())
    return tmp_path / "log.sqlite"


class TestState:
    def test_a_log_goes_out_and_in_again(self, log: Path, tmp_path: Path) -> None:
        backup, restored = tmp_path / "backup", tmp_path / "restored.sqlite"
        assert tidegate("state", "export", backup, "--log", log).exit_code == 0
        assert tidegate("state", "import", backup, "--log", restored).exit_code == 0
        out = tidegate("state", "export", "--log", restored)
        assert out.stdout == backup.read_text()
        piped = tidegate("state", "import", "-", "--log", tmp_path / "piped.sqlite", text=out.stdout)
        assert "stands at step 2" in piped.output

    def test_the_log_of_a_site_is_exported(self, log: Path, tmp_path: Path) -> None:
        site = tmp_path / "site.yaml"
        declared = "cluster: x\npools: {local: {kind: local, gpus: 1}}\n"
        site.write_text(declared + f"log: {{kind: sqlite, path: {log.name}}}\n")
        assert tidegate("state", "export", "--site", site).exit_code == 0
        site.write_text(declared + "log: {kind: memory}\n")
        result = tidegate("state", "export", "--site", site)
        assert (result.exit_code, "in memory" in result.output) == (Exit.USAGE, True)

    def test_a_backup_is_never_written_over(self, log: Path, tmp_path: Path) -> None:
        (tmp_path / "there").write_text("mine")
        assert tidegate("state", "export", tmp_path / "there", "--log", log).exit_code == Exit.USAGE
        assert (tmp_path / "there").read_text() == "mine"

    def test_a_backup_that_fails_leaves_nothing_so_it_can_be_tried_again(self, tmp_path: Path) -> None:
        for _ in range(2):
            result = tidegate("state", "export", tmp_path / "backup", "--log", tmp_path / "nope.sqlite")
            assert result.exit_code == Exit.USAGE
            assert not (tmp_path / "backup").exists()

    @pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\xfe"])
    def test_what_is_no_backup_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "backup").write_bytes(content)
        result = tidegate("state", "import", tmp_path / "backup", "--log", tmp_path / "new.sqlite")
        assert (result.exit_code, "error:" in result.output) == (Exit.FAILED, True)
        assert not (tmp_path / "new.sqlite").exists()

    def test_missing_files_are_told(self, tmp_path: Path) -> None:
        assert tidegate("state", "import", tmp_path / "nope", "--log", tmp_path / "x").exit_code == Exit.USAGE
        assert tidegate("replay-log", "--log", tmp_path / "nope").exit_code == Exit.USAGE

    @pytest.mark.parametrize("words", ["state export", "replay-log", "state import -", "state import - --force"])
    def test_a_folder_is_no_log_and_stays_where_it_is(self, words: str, log: Path, tmp_path: Path) -> None:
        backup = tidegate("state", "export", "--log", log).stdout
        (tmp_path / "there" / "folder").mkdir(parents=True)
        result = tidegate(*words.split(), "--log", tmp_path / "there" / "folder", text=backup)
        assert result.exit_code in (Exit.USAGE, Exit.FAILED)
        assert "is a folder: name the log's file in it" in result.output
        assert [path.name for path in (tmp_path / "there").iterdir()] == ["folder"]

    def test_a_log_that_another_version_decided_is_told(self, log: Path) -> None:
        result = tidegate("replay-log", "--log", log, "--json")
        assert result.exit_code == Exit.FAILED
        assert json.loads(result.stdout)["different"] == 1

    def test_a_log_without_a_step_proves_nothing(self, tmp_path: Path) -> None:
        async def write() -> None:
            log = SqliteLog(tmp_path / "log.sqlite")
            await log.acquire_leadership("test")
            await log.close()

        asyncio.run(write())
        result = tidegate("replay-log", "--log", tmp_path / "log.sqlite")
        assert (result.exit_code, "nothing was replayed" in result.output) == (Exit.OK, True), result.output


class TestServing:
    def test_run_says_how_to_make_a_site(self, tmp_path: Path) -> None:
        result = tidegate("run", "--site", tmp_path / "site.yaml")
        assert (result.exit_code, "tidegate init" in result.output) == (Exit.USAGE, True)

    def test_run_needs_the_site_secret(self, tmp_path: Path) -> None:
        site = tmp_path / "site.yaml"
        site.write_text("cluster: x\npools: {local: {kind: local, gpus: 4}}\nlog: {kind: memory}\n")
        result = tidegate("run", "--site", site, "--policies", POLICIES)
        assert result.exit_code == Exit.USAGE
        for words in ("TIDEGATE_SITE_SECRET", "openssl rand -hex 32", "tidegate init"):
            assert words in result.output

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--hold", "x"], "--hold"),
            (["--shutdown", "x"], "--shutdown"),
            (["--broker", "localhost:8600"], "not an http address"),
            ([], "TIDEGATE_GATEWAY_TOKEN"),
            (["--site", "/nope/site.yaml"], "no such file"),
            (["--site-secret-file", "/nope/secret"], "cannot read"),
        ],
    )
    def test_gateway_names_what_it_lacks(
        self, words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = tidegate("gateway", *words)
        assert (result.exit_code, named in result.output) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    "words",
    [["--window", "1m..2m"], ["--rate-scale", "2"], ["--trace", "/nope"], ["--trace", "/nope", "--window", "x"]],
    ids=" ".join,
)
def test_demo_refuses_what_it_cannot_play(words: list[str]) -> None:
    result = tidegate("demo", "--headless", *words)
    assert (result.exit_code, "error:" in result.output) == (Exit.USAGE, True)


def test_demo_keeps_nothing_in_what_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    result = tidegate("demo", "--headless", "--keep", tmp_path / "README.md")
    assert (result.exit_code, "is a file; --keep wants a new folder" in result.output) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    "command", [["run"], ["gateway", "--broker", "http://127.0.0.1:1"]], ids=lambda words: words[0]
)
def test_an_address_file_that_cannot_be_written_is_told_before_anything_begins(
    command: list[str], tmp_path: Path
) -> None:
    assert tidegate("init", tmp_path / "site").exit_code == 0
    site = tmp_path / "site" / "site.yaml"
    result = tidegate(*command, "--site", site, "--address-file", "/nonexistent/x")
    assert (result.exit_code, "/nonexistent/x: cannot be written" in result.output) == (Exit.USAGE, True)
    assert not list((tmp_path / "site").rglob("*.sqlite*"))


class TestReports:
    """`simulate --out`."""

    @pytest.fixture
    def words(self, tmp_path: Path) -> list[str | Path]:
        trace = tmp_path / "trace.csv"
        trace.write_text(BURST + "".join(f"{at},ChatGPT,50,10,60,Conversation log\n" for at in range(30)))
        return ["simulate", "--trace", trace, "--policies", POLICIES]

    def test_a_folder_is_written_that_a_second_report_may_replace(
        self, words: list[str | Path], tmp_path: Path
    ) -> None:
        folder = tmp_path / "made" / "report"
        for seed in ("1", "2"):
            result = tidegate(*words, "--out", folder, "--seed", seed)
            assert result.exit_code == Exit.OK, result.output
            assert f"report: {folder / 'index.html'}" in result.stderr.replace("\n", "")
        report = loads((folder / "report.json").read_bytes())
        assert (report.run.seed, report.requests.sent) == (2, 30)
        assert report.oracle.bound_gpu_hours is not None
        assert report.oracle.clairvoyant is not None
        assert report.run.trace is not None
        assert (report.run.trace.file.name, report.run.dated) == ("trace.csv", False)
        assert report.run.trace.file.sha256 == hashlib.sha256((tmp_path / "trace.csv").read_bytes()).hexdigest()

    @pytest.mark.parametrize(
        ("wall_s", "kept", "why"),
        [
            pytest.param(5.0, 0.95, "", id="a quick run that served well"),
            pytest.param(90.0, 0.95, "the run took 90 s", id="a long run"),
            pytest.param(5.0, 0.031, "the run answered 3.1% in time", id="a run that served next to nobody"),
        ],
    )
    def test_the_plan_is_left_out_by_itself_where_it_costs_or_tells_too_little(
        self, wall_s: float, kept: float, why: str
    ) -> None:
        left_out = plan_left_out(wall_s, kept)
        assert left_out.startswith(why)
        assert ("--oracle always" in left_out) == bool(why)

    def test_without_the_oracle_the_report_says_why(self, words: list[str | Path], tmp_path: Path) -> None:
        assert tidegate(*words, "--out", tmp_path / "report", "--oracle", "never").exit_code == Exit.OK
        report = loads((tmp_path / "report" / "report.json").read_bytes())
        assert report.oracle.left_out == "--oracle never was given"

    def test_a_folder_with_something_else_is_left_alone(self, words: list[str | Path], tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("precious")
        for out, why in ((tmp_path / "full", "is no report"), (tmp_path / "trace.csv", "is no folder")):
            result = tidegate(*words, "--out", out)
            assert result.exit_code == Exit.USAGE
            assert why in result.output
        assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]

    def test_an_oracle_without_a_report_is_refused(self, words: list[str | Path]) -> None:
        result = tidegate(*words, "--oracle", "always")
        assert (result.exit_code, "give --out" in result.output) == (Exit.USAGE, True)
