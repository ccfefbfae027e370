"""The report's page in a browser: its script runs to the end and shows what the document says, as text."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.report.document import Clairvoyant, Oracle, RunReport
from simulator.report.page import page_of
from tests.support.reported import document, reported
from tests.unit.report import test_figures as figures

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def told() -> RunReport:
    return document(reported().facts)


def shown(page: str, folder: Path, after_hash: str = "", width: int = 1300) -> str:
    """The page's elements after its script has run, which must not complain."""
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("needs a Chromium to run the page's script")
    (folder / "index.html").write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            "--virtual-time-budget=2000", f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}",
            f"file://{folder / 'index.html'}#{after_hash}",
        ],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout.split('<script type="application/json"')[0] + done.stdout.rpartition("</script>")[2]


def test_all_of_it_is_drawn_and_the_crosshair_stands_where_the_address_says(told: RunReport, tmp_path: Path) -> None:
    page = shown(page_of(told), tmp_path, "t=4&theme=dark")
    assert page.count("<figure") == page.count("<svg") == 8
    assert 'data-theme="dark"' in page
    assert "2023-11-14 22:13:24 UTC (+4s)" in page
    assert page.count('visibility="visible"') == 8
    for heading in ("In time (both limits kept)", "GPU-hours", "Against the oracle", "Engine slow"):
        assert f"<h3>{heading}</h3>" in page
    changes = [row for row in told.decisions if row.before != row.target]
    table = re.search(r'<table id="decision-table">(.*?)</table>', page, re.DOTALL)
    assert table is not None
    assert table[1].count("<details>") == len(changes)


PROBE = """<script>addEventListener("load", () => {
  const boxes = [document.documentElement, ...document.querySelectorAll(".scroll")];
  const wide = boxes.filter((one) => one.scrollWidth > one.clientWidth + 1);
  document.body.dataset.wide = wide.map((one) => one.textContent.slice(0, 40)).join("; ");
});</script></body>"""


@pytest.mark.parametrize("width", [1300, 1920])
@pytest.mark.parametrize("models", [1, 2])
def test_no_table_scrolls_sideways_on_a_desk(models: int, width: int, tmp_path: Path) -> None:
    """With an interval below each quantile the latencies of one model were wider than half of the page."""
    page = page_of(figures.told(figures.facts(models=models))).replace("</body>", PROBE)
    assert 'data-wide=""' in shown(page, tmp_path, width=width)


def test_limits_are_told_beside_the_title_where_no_curve_goes_through_them(told: RunReport, tmp_path: Path) -> None:
    page = shown(page_of(told), tmp_path)
    assert re.search(r'<span class="legend">(?:(?!</h3>).)*<i class="limit"></i>limit 2 s</span>', page, re.DOTALL)
    assert not re.search(r"<text[^>]*>limit", page)


def test_below_the_replicas_stand_the_last_changes_until_somebody_points(told: RunReport, tmp_path: Path) -> None:
    """There was an empty strip."""
    page = shown(page_of(told), tmp_path)
    why = re.search(r'<div class="why"[^>]*>(.*?)</div>', page, re.DOTALL)
    assert why is not None
    last = [row for row in told.decisions if row.before != row.target][-2:]
    assert re.findall(r"(\d+) → (\d+), ", why[1]) == [(str(row.before), str(row.target)) for row in last]


def test_hostile_names_and_reasons_stay_text(told: RunReport, tmp_path: Path) -> None:
    rows = tuple(
        replace(row, words=HOSTILE, code=HOSTILE, model_id=HOSTILE, trail=(HOSTILE,)) for row in told.decisions
    )
    page = shown(page_of(replace(told, decisions=rows, notes=(HOSTILE,))), tmp_path, "t=4")
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_run_without_a_request_is_shown(tmp_path: Path) -> None:
    page = shown(page_of(document(reported([]).facts)), tmp_path)
    assert "0 arrivals" in page


def test_decisions_are_listed_where_none_of_them_changed_a_target(told: RunReport, tmp_path: Path) -> None:
    kept = tuple(row for row in told.decisions if row.before == row.target)
    counts = replace(told.decision_counts, changes=0, rows=len(kept), shown=len(kept))
    page = shown(page_of(replace(told, decisions=kept, decision_counts=counts)), tmp_path)
    table = re.search(r'<table id="decision-table">(.*?)</table>', page, re.DOTALL)
    assert table is not None
    assert table[1].count("<code>") == len(kept) > 0


def test_a_plan_that_took_more_than_the_run_is_called_a_heuristic_and_no_verdict(
    told: RunReport, tmp_path: Path
) -> None:
    plan = Clairvoyant(gpu_hours=1.12, attainment=1.0, worst_hour=None, gpu_hours_gap=1 / 1.12 - 1, knows="all")
    oracle = Oracle(
        allowance=0.0, step_s=1.0, run_gpu_hours=1.0, dedicated_gpu_hours=3.0, bound_gpu_hours=0.8, gap=0.25,
        clairvoyant=plan,
    )  # fmt: skip
    page = shown(page_of(replace(told, oracle=oracle)), tmp_path)
    assert "the plan took 12 % more: it is a heuristic, the bound is what nothing can undercut" in page
    assert "Against hindsight" not in page
    assert "Dedicated pools held 3 GPU-hours beyond all replicas" in page


def test_a_model_that_nobody_asked_is_named_with_its_gpu_hours(tmp_path: Path) -> None:
    page = shown(page_of(figures.told(figures.with_warm_up_and_an_idle_model(figures.facts()))), tmp_path)
    assert "not asked: embed, 96 more" in page
    assert "model embed (not asked)" in page
    assert "of warm-up, in no other row" in page
