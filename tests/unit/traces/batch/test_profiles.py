"""Generated jobs have the shape of the log that their profile was fitted to."""

from __future__ import annotations

import json
from itertools import islice, pairwise, takewhile

import numpy as np
import pytest

from broker.model import wire
from broker.model.errors import ConfigError, TraceError
from tests.support.shared_data import shared_path
from traces.batch import fit
from traces.batch.fit import fit_batch_profile, weekly_shape
from traces.batch.generate import EPOCH_MONDAY_S, BatchProfile, Quantiles, SizeClass, generate
from traces.batch.profiles import batch_profile_names, load_batch_profile
from traces.batch.swf import BatchJob, open_batch_log

HOUR_S = 3600.0
FLAT = Quantiles((0.0, 1.0), (600.0, 36_000.0))
PROFILE = BatchProfile(
    name="made",
    provenance="Chosen for tests.",
    jobs=20_000,
    processors=64,
    rate_per_s=0.01,
    arrival_cv=2.0,
    weekly_shape=(*(1.5,) * 84, *(0.5,) * 84),
    classes=(
        SizeClass(0.7, (1,), (1.0,), FLAT, Quantiles((0.0, 1.0), (0.1, 1.0)), 0.6),
        SizeClass(0.3, (2, 32), (0.25, 0.75), FLAT, Quantiles((0.0, 1.0), (0.5, 0.5)), 0.0),
    ),
)


def jobs_of(profile: BatchProfile, count: int, *, seed: int = 1, rate_scale: float = 1.0) -> list[BatchJob]:
    return list(islice(generate(profile, np.random.default_rng(seed), rate_scale=rate_scale), count))


def load(jobs: list[BatchJob], processors: int) -> float:
    """Mean share of the machine that they ask for."""
    used = sum((job.run_s or 0.0) * (job.processors or 0) for job in jobs)
    return used / (jobs[-1].submitted_s - jobs[0].submitted_s) / processors


def test_the_same_seed_gives_the_same_jobs_and_another_gives_others() -> None:
    assert jobs_of(PROFILE, 3000) == jobs_of(PROFILE, 3000)
    assert jobs_of(PROFILE, 30) != jobs_of(PROFILE, 30, seed=2)
    assert jobs_of(PROFILE, 30) == jobs_of(PROFILE, 3000)[:30]


def test_jobs_come_in_order_and_are_such_as_the_profile_allows() -> None:
    jobs = jobs_of(PROFILE, 5000)
    assert all(before.submitted_s <= after.submitted_s for before, after in pairwise(jobs))
    assert {job.processors for job in jobs} == {1, 2, 32}
    for job in jobs:
        assert job.run_s is not None
        assert job.requested_s is not None
        assert 0 < job.run_s <= job.requested_s
        assert 600 <= job.requested_s <= 36_000
        assert job.requested_s % 60 == 0


@pytest.mark.parametrize("rate_scale", [0.5, 1.0, 3.0])
def test_jobs_come_at_their_rate(rate_scale: float) -> None:
    jobs = jobs_of(PROFILE, 20_000, rate_scale=rate_scale)
    assert len(jobs) / jobs[-1].submitted_s == pytest.approx(0.01 * rate_scale, rel=0.08)


def test_a_fit_to_generated_jobs_finds_the_profile_again() -> None:
    jobs = jobs_of(PROFILE, 60_000)
    found = fit_batch_profile(jobs, name="again", provenance="", processors=64, began_at=EPOCH_MONDAY_S)
    assert found.rate_per_s == pytest.approx(PROFILE.rate_per_s, rel=0.08)
    assert found.arrival_cv == pytest.approx(PROFILE.arrival_cv, rel=0.1)
    assert np.mean(found.weekly_shape[:84]) == pytest.approx(1.5, rel=0.08)
    assert [each.share for each in found.classes] == pytest.approx([0.7, 0.075, 0.225], abs=0.02)
    assert found.classes[0].correlation == pytest.approx(0.6, abs=0.05)
    assert [each.processors for each in found.classes] == [(1,), (2,), (32,)]
    assert load(jobs_of(found, 60_000), 64) == pytest.approx(load(jobs, 64), rel=0.1)


def test_the_week_is_told_only_of_logs_of_eight_weeks() -> None:
    hourly = np.arange(0.0, 9 * 168) * HOUR_S + EPOCH_MONDAY_S
    assert weekly_shape(hourly) == (1.0,) * 168
    assert weekly_shape(hourly[: 7 * 168]) == ()


def test_a_generator_may_start_at_any_hour_of_the_week() -> None:
    start_at = EPOCH_MONDAY_S + 84 * HOUR_S
    jobs = generate(PROFILE, np.random.default_rng(1), starts_at=start_at)
    four_weeks = takewhile(lambda job: job.submitted_s < 4 * 168 * HOUR_S, jobs)
    hours = [(start_at + job.submitted_s - EPOCH_MONDAY_S) // HOUR_S % 168 for job in four_weeks]
    assert sum(hour < 84 for hour in hours) / len(hours) == pytest.approx(0.75, abs=0.03)


def test_too_few_jobs_are_refused() -> None:
    with pytest.raises(TraceError, match="99 jobs that ran are too few"):
        fit_batch_profile(jobs_of(PROFILE, 99), name="few", provenance="", processors=64, began_at=None)


def test_an_unknown_profile_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="cea_curie, kth_sp2"):
        load_batch_profile("nobody")


@pytest.mark.parametrize(
    ("name", "log"), [("kth_sp2", "KTH-SP2-1996.swf.gz"), ("cea_curie", "CEA-Curie-2012-days00-17.swf.gz")]
)
def test_a_shipped_profile_is_what_its_source_fits_to(name: str, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = load_batch_profile(name)
    path = shared_path(f"traces/hpc/{log}")
    assert fit.main([str(path), "--name", name, "--provenance", shipped.provenance]) == 0
    assert wire.decode(BatchProfile, json.loads(capsys.readouterr().out)) == shipped


@pytest.mark.parametrize(
    ("name", "log"), [("kth_sp2", "KTH-SP2-1996.swf.gz"), ("cea_curie", "CEA-Curie-2012-days00-17.swf.gz")]
)
def test_generated_jobs_load_the_machine_about_as_their_source_does(name: str, log: str) -> None:
    profile = load_batch_profile(name)
    real = [job for job in open_batch_log(shared_path(f"traces/hpc/{log}")) if job.processors]
    loads = [load(jobs_of(profile, profile.jobs, seed=seed), profile.processors) for seed in range(4)]
    assert np.mean(loads) == pytest.approx(load(real, profile.processors), rel=0.15)


def test_every_shipped_profile_says_where_it_comes_from() -> None:
    for name in batch_profile_names():
        profile = load_batch_profile(name)
        assert profile.name == name
        assert "Parallel Workloads Archive" in profile.provenance
        assert sum(each.share for each in profile.classes) == pytest.approx(1.0, abs=1e-3)


def test_a_log_that_cannot_be_read_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit.main(["nowhere.swf", "--name", "n", "--provenance", "p"]) == 2
    assert "nowhere.swf: no such file" in capsys.readouterr().err
