"""What Slurm's accounting prints becomes jobs, and jobs become a profile of a cluster's other users."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from broker.app.settings.cluster import load_cluster
from broker.model.errors import TraceError
from cli.output import Exit
from tests.support.command_line import tidegate
from traces.batch.generate import EPOCH_MONDAY_S, generate
from traces.batch.profiles import load_batch_profile, read_batch_profile
from traces.batch.sacct import COLUMNS, COMMAND, Counted, SacctOptions, sacct_jobs
from traces.batch.swf import BatchJob
from traces.schema import ReadStatistics

HEADER = "|".join(COLUMNS)
ROW = "1790000000|1200|60|COMPLETED|billing=4,cpu=8,gres/gpu=2,mem=16G,node=1|gpu|train"
WHERE = Path("jobs.txt")


def read(*rows: str, options: SacctOptions | None = None, header: str = HEADER) -> list[BatchJob]:
    lines = [f"{line}\n".encode() for line in (header, *rows)]
    return list(sacct_jobs(lines, WHERE, options or SacctOptions(), ReadStatistics()))


def test_a_row_becomes_a_job() -> None:
    (job,) = read(ROW)
    assert (job.submitted_s, job.run_s, job.requested_s, job.processors) == (1_790_000_000.0, 1200.0, 3600.0, 2)


def test_processors_are_counted_where_they_are_asked_for() -> None:
    (job,) = read(ROW, options=SacctOptions(Counted.CPUS))
    assert job.processors == 8


def test_columns_may_come_in_any_order_with_others_between() -> None:
    header = "JobID|" + "|".join(reversed(COLUMNS[:-1])) + "|JobName"
    cells = ROW.split("|")
    assert read(f"7|{'|'.join(reversed(cells[:-1]))}|a|b", header=header) == read(ROW)


def test_times_as_sacct_prints_them_by_itself_are_taken_as_utc() -> None:
    date = datetime.fromtimestamp(1_790_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert read(ROW.replace("1790000000", date)) == read(ROW)


@pytest.mark.parametrize("limit", ["UNLIMITED", "Partition_Limit", ""])
def test_a_job_may_have_no_limit_of_its_own(limit: str) -> None:
    (job,) = read(ROW.replace("|60|", f"|{limit}|"))
    assert job.requested_s is None


LEFT_OUT = {
    "that waits": ROW.replace("COMPLETED", "PENDING"),
    "that runs": ROW.replace("COMPLETED", "RUNNING"),
    "that never ran": ROW.replace("billing=4,cpu=8,gres/gpu=2,mem=16G,node=1", ""),
    "without GPUs": ROW.replace(",gres/gpu=2", ""),
    "of a longer word": ROW.replace("gres/gpu=2", "gres/gpumem=2"),
    "of a word that ends so": ROW.replace("gres/gpu=2", "license/gres/gpu=2"),
    "of a replica of ours": ROW.replace("train", "launch-0123456789abcdef"),
    "of another partition": ROW.replace("|gpu|", "|debug|"),
}


@pytest.mark.parametrize("row", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_a_job_is_left_out(row: str) -> None:
    found = read(row, ROW, options=SacctOptions(partition="gpu"))
    assert [job.job_id for job in found] == [3], "its line"


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "CANCELLED by 1000", "OUT_OF_MEMORY", "NODE_FAIL"])
def test_a_job_that_ended_badly_held_its_nodes_too(state: str) -> None:
    assert len(read(ROW.replace("COMPLETED", state))) == 1


BAD = {
    "no time": (ROW.replace("1790000000", "Unknown"), "Submit: 'Unknown' is not a number of seconds"),
    "a negative time": (ROW.replace("|1200|", "|-1200|"), "ElapsedRaw: '-1200' is negative"),
    "a limit in words": (ROW.replace("|60|", "|1:00:00|"), "TimelimitRaw: '1:00:00' is not a number of seconds"),
    "too few columns": ("1790000000|1200", "2 columns where the header has 7"),
}


@pytest.mark.parametrize(("row", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_is_told_with_its_line_or_counted(row: str, words: str) -> None:
    with pytest.raises(TraceError, match=f"^jobs.txt:3: {words}"):
        read(ROW, row)
    statistics = ReadStatistics()
    lines = [f"{line}\n".encode() for line in (HEADER, ROW, row, ROW)]
    assert len(list(sacct_jobs(lines, WHERE, SacctOptions(skip_bad=True), statistics))) == 2
    assert (statistics.bad, statistics.first_bad) == (1, f"line 3: {words}")


def test_missing_columns_are_told_with_the_command() -> None:
    with pytest.raises(TraceError) as caught:
        read(header=HEADER.replace("AllocTRES|", ""))
    assert "no column AllocTRES" in str(caught.value)
    assert COMMAND in str(caught.value)


def printed(jobs: Sequence[BatchJob]) -> str:
    """As sacct would print these jobs, a fortnight out of order."""
    rows = [
        f"{job.submitted_s + EPOCH_MONDAY_S:.0f}|{job.run_s:.0f}|{(job.requested_s or 0) / 60:.0f}|COMPLETED"
        f"|cpu=8,gres/gpu={job.processors}|gpu|secret-{job.job_id}"
        for job in jobs
    ]
    return "\n".join([HEADER, *reversed(rows)]) + "\n"


class TestCommand:
    """``tidegate trace fit-slurm``"""

    WORDS = ("trace", "fit-slurm", "--name", "ours", "--provenance", "made", "--size", "100")

    def fitted(self, folder: Path) -> tuple[Path, list[BatchJob]]:
        jobs = list(islice(generate(load_batch_profile("kth_sp2"), np.random.default_rng(1)), 4000))
        (folder / "jobs.txt").write_text(printed(jobs))
        result = tidegate(*self.WORDS, folder / "jobs.txt")
        assert result.exit_code == Exit.OK, result.output
        (folder / "ours.json").write_text(result.stdout)
        assert "fitted to 4,000 of 4,000 rows" in result.stderr
        return folder / "ours.json", jobs

    def test_the_profile_generates_what_it_was_fitted_to(self, tmp_path: Path) -> None:
        path, jobs = self.fitted(tmp_path)
        profile = read_batch_profile(path)
        assert (profile.jobs, profile.processors, profile.provenance) == (4000, 100, "made")
        again = list(islice(generate(profile, np.random.default_rng(2)), 4000))

        def asked(jobs: Sequence[BatchJob]) -> float:
            held = sum((job.run_s or 0.0) * (job.processors or 0) for job in jobs)
            return held / (jobs[-1].submitted_s - jobs[0].submitted_s)

        assert asked(again) == pytest.approx(asked(jobs), rel=0.25)

    def test_no_name_of_a_job_is_in_the_profile(self, tmp_path: Path) -> None:
        path, _ = self.fitted(tmp_path)
        assert "secret" not in path.read_text()

    def test_cluster_yaml_takes_the_profile(self, tmp_path: Path) -> None:
        self.fitted(tmp_path)
        (tmp_path / "cluster.yaml").write_text(
            "nodes: {gpu: {count: 25, gpus: 4}}\npartitions: {gpu: {}}\n"
            "background: {users: {kind: generated, profile_file: ours.json, partition: gpu}}\n"
        )
        (background,) = load_cluster(tmp_path / "cluster.yaml").background.values()
        assert background.kind == "generated"
        assert background.to_profile().name == "ours"

    def test_standard_input_is_read_too(self) -> None:
        result = tidegate(*self.WORDS, "-", text=f"{HEADER}\n" + f"{ROW}\n" * 3)
        assert (result.exit_code, "3 jobs that ran are too few" in result.output) == (Exit.USAGE, True)

    def test_a_bad_row_is_a_usage_error_with_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "jobs.txt").write_text(f"{HEADER}\n{ROW}\nnonsense\n")
        result = tidegate(*self.WORDS, tmp_path / "jobs.txt")
        assert (result.exit_code, "jobs.txt:3: 1 columns" in result.output) == (Exit.USAGE, True)

    def test_the_page_has_the_command_that_is_read(self) -> None:
        page = (Path(__file__).parents[4] / "docs" / "cluster-model.md").read_text()
        assert COMMAND.replace(" ", "") in page.replace("\\\n", "").replace(" ", "")
