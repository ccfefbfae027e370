"""A run's report: its document, its tables and its page say what the run did, whatever names and reasons hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from broker.model.errors import InvariantViolated, WireError
from broker.model.json_schema import schema_of
from broker.model.replica import Tier
from broker.model.spec import PolicySpec
from simulator.report.__main__ import NAME, schema_text
from simulator.report.compose import Source, compose
from simulator.report.document import RunReport, dumps, loads
from simulator.report.facts import Facts
from simulator.report.folder import write_folder
from simulator.report.gap import oracle_of
from simulator.report.gpu_hours import gpu_hours
from simulator.report.page import page_of
from simulator.report.summary import OUTCOMES
from simulator.run import Report
from tests.support.reported import BURST, SOURCE, again, document, reported
from tests.support.shared_data import REPOSITORY
from tests.support.simulated import SLOW_ENGINE, SmallRun

HOSTILE = "</script><script>alert(1)</script> \" ' & <!-- \u2028 ]]>"


@pytest.fixture(scope="module")
def report() -> Report:
    return reported()


@pytest.fixture(scope="module")
def told(report: Report) -> RunReport:
    return document(report.facts)


class TestDocument:
    def test_it_comes_back_as_it_was(self, told: RunReport) -> None:
        assert loads(dumps(told)) == told
        assert json.loads(dumps(told))["schema"] == "tidegate.run_report/1"

    def test_it_fits_its_schema(self, told: RunReport) -> None:
        jsonschema.Draft202012Validator(schema_of(RunReport)).validate(json.loads(dumps(told))["data"])

    def test_the_published_schema_is_current(self) -> None:
        published = REPOSITORY / "docs" / "schemas" / NAME
        assert published.read_text(encoding="utf-8") == schema_text(), "run: make docs"

    def test_a_newer_version_is_refused(self, told: RunReport) -> None:
        with pytest.raises(WireError, match="is newer"):
            loads(dumps(told).replace("run_report/1", "run_report/2"))

    def test_the_parts_of_gpu_hours_add_up_by_pool_and_by_day(self, report: Report, told: RunReport) -> None:
        whole, pools = told.gpu_hours[0], [row for row in told.gpu_hours if row.kind == "pool"]
        assert whole.total == pytest.approx(gpu_hours(report.facts.intervals, begin_s=0.0).total)
        assert whole.total == pytest.approx(sum(row.total for row in pools))
        parts = ("busy", "idle", "starting", "draining", "withheld")
        assert sum(getattr(whole, part) for part in parts) == pytest.approx(whole.total)
        figure = told.figure("gpu_hours_a_day")
        assert figure is not None
        assert sum(figure.numerator) == pytest.approx(whole.total)

    def test_figures_are_metrics_of_the_runs_seed(self, told: RunReport) -> None:
        figure = told.figure("attainment")
        assert figure is not None
        assert figure.metric(7).value == figure.value == told.attainment[0].value
        assert (figure.interval.blocks, figure.interval.low) == (1, None)

    def test_series_share_the_grid_and_add_up_to_the_figures(self, report: Report, told: RunReport) -> None:
        lengths = np.minimum(told.grid.bin_s, told.run.duration_s - told.grid.bin_s * np.arange(told.grid.bins))
        assert {len(one.values) for one in told.series} == {told.grid.bins}
        of = {(one.name, *one.labels.values()): np.array(one.values, float) for one in told.series}
        assert float(of["load", "chat"] @ lengths) == pytest.approx(len(report.requests), rel=1e-4)
        parts = sum(of["gpus", part] for part in ("busy", "idle", "starting", "draining", "withheld"))
        since_0 = gpu_hours(report.facts.intervals, begin_s=0.0).total
        assert float(parts @ lengths) / 3600 == pytest.approx(since_0, rel=1e-3)
        ready = next(one for one in told.series if one.name == "ready")
        assert max(value or 0.0 for value in ready.high) == report.summary.peak_ready

    def test_an_engine_that_no_profile_names_is_told_with_what_its_numbers_are_good_for(self, told: RunReport) -> None:
        (used,) = told.run.profiles
        assert (used.name, used.summary) == ("slow", SLOW_ENGINE.provenance)

    def test_decisions_have_their_trails(self, told: RunReport) -> None:
        changes = [row for row in told.decisions if row.before != row.target]
        assert changes
        assert all(row.trail for row in changes)
        assert sum(row.count for row in told.decisions) == told.decision_counts.decisions


def test_a_run_without_a_request_has_a_report_too() -> None:
    told = document(reported([]).facts)
    assert told.requests.sent == 0
    assert told.attainment[0].value is None
    assert loads(dumps(told)) == told
    assert "Simulated run" in page_of(told)


class TestOracle:
    def test_the_bound_lies_below_the_plan_and_the_run(self, report: Report) -> None:
        found = oracle_of(report.facts, again)
        total = gpu_hours(report.facts.intervals, begin_s=0.0).total
        assert found.bound_gpu_hours is not None
        assert found.clairvoyant is not None
        assert found.bound_gpu_hours < found.clairvoyant.gpu_hours
        assert found.gap == pytest.approx(total / found.bound_gpu_hours - 1)
        assert found.allowance == pytest.approx(1 - float(report.facts.kept.mean()))

    def test_run_bound_and_plan_are_of_the_replicas_that_served_and_dedicated_gpus_are_told_beside_them(
        self, report: Report
    ) -> None:
        facts = report.facts
        pools = tuple(replace(pool, tiers=(Tier.BASELINE,)) for pool in facts.recorded.site.pools)
        idle = [
            replace(one, model_id="embed", replica_id=f"embed-{number}")
            for number, one in enumerate(facts.recorded.replicas)
        ]
        recorded = replace(
            facts.recorded, site=replace(facts.recorded.site, pools=pools),
            models=(*facts.recorded.models, replace(facts.recorded.models[0], model_id="embed")),
            replicas=(*facts.recorded.replicas, *idle),
        )  # fmt: skip
        alone, beside = oracle_of(facts, None), oracle_of(replace(facts, recorded=recorded), None)
        assert (beside.run_gpu_hours, beside.gap) == pytest.approx((alone.run_gpu_hours, alone.gap))
        assert alone.dedicated_gpu_hours == 0.0
        assert beside.dedicated_gpu_hours > 0.0

    def test_a_plan_that_took_more_than_the_run_at_equal_service_has_a_negative_gap(self, report: Report) -> None:
        facts = report.facts

        def dear(policies: Mapping[str, PolicySpec]) -> Facts:
            twice = [replace(one, interval=replace(one.interval, gpu_weight=2.0)) for one in facts.recorded.replicas]
            return replace(facts, recorded=replace(facts.recorded, replicas=tuple(twice)))

        plan = oracle_of(facts, dear).clairvoyant
        assert plan is not None
        assert plan.gpu_hours_gap == pytest.approx(-0.5)

    def test_a_run_that_costs_less_than_anything_can_is_a_bug(self, report: Report) -> None:
        facts = report.facts
        forged = replace(facts, recorded=replace(facts.recorded, replicas=facts.recorded.replicas[:1]))
        with pytest.raises(InvariantViolated, match="nothing can do that"):
            oracle_of(forged, None)

    def test_a_plan_that_more_room_does_not_help_is_tried_no_further_and_its_cost_not_compared(
        self, report: Report
    ) -> None:
        facts, asked = report.facts, []

        def late(policies: Mapping[str, PolicySpec]) -> Facts:
            asked.append(policies)
            later = facts.outcomes.first_token_s + 3600.0
            return replace(facts, outcomes=replace(facts.outcomes, first_token_s=later))

        found = oracle_of(facts, late).clairvoyant
        assert found is not None
        assert (len(asked), found.attainment, found.gpu_hours_gap) == (2, 0.0, None)

    def test_why_there_is_no_plan_is_told(self, report: Report) -> None:
        found = oracle_of(report.facts, None, left_out="it would take minutes")
        assert (found.clairvoyant, found.clairvoyant_left_out) == (None, "it would take minutes")


@pytest.fixture(scope="module")
def folder(report: Report, told: RunReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    folder = tmp_path_factory.mktemp("report") / "new"
    assert write_folder(folder, told, report.facts)
    return folder


class TestTables:
    def read(self, folder: Path, name: str) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pydict()

    def test_requests_are_the_outcomes(self, folder: Path, report: Report) -> None:
        rows, out = self.read(folder, "requests"), report.requests
        for name in ("arrival_s", "first_token_s", "end_s", "prompt_tokens", "output_tokens", "answer_tokens"):
            column = np.array([np.nan if value is None else value for value in rows[name]], float)
            assert np.array_equal(column, getattr(out, name).astype(float), equal_nan=True), name
        assert rows["status"] == [OUTCOMES[code].value for code in out.status]
        assert set(rows["model"]) == {"chat"}
        assert rows["in_time"] == report.facts.kept.tolist()

    def test_every_decision_is_there(self, folder: Path, report: Report) -> None:
        rows = self.read(folder, "decisions")
        assert rows["words"] == [decision.words for decision in report.summary.decisions]
        trail = json.loads(rows["trail"][-1])
        assert trail[-1]["value"] == rows["target"][-1]

    def test_replicas_and_series_are_those_of_the_document(self, folder: Path, report: Report, told: RunReport) -> None:
        rows = self.read(folder, "replicas")
        allocated_s = sum(one.interval.end_s - one.interval.begin_s for one in report.recorded.replicas)
        assert sum(rows["end_s"]) - sum(rows["begin_s"]) == pytest.approx(allocated_s)
        assert sum(rows["busy_s"]) == pytest.approx(sum(one.interval.busy_s for one in report.recorded.replicas))
        series = self.read(folder, "series")
        assert series["value"] == [value for one in told.series for value in one.values]
        assert series["t_s"][: told.grid.bins] == [told.grid.bin_s * n for n in range(told.grid.bins)]

    def test_a_replica_has_one_row_for_each_phase_it_went_through(self, folder: Path) -> None:
        rows = self.read(folder, "replicas")
        phases = list(zip(rows["replica"], rows["phase"], strict=True))
        assert all(one != other for one, other in pairwise(phases))
        assert ("ready" in rows["phase"], "starting" in rows["phase"]) == (True, True)

    def test_a_second_report_replaces_the_first(self, folder: Path, report: Report, told: RunReport) -> None:
        write_folder(folder, replace(told, notes=("the second",)), report.facts)
        assert loads((folder / "report.json").read_bytes()).notes == ("the second",)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        name = self.open[-1] if self.open else ""
        self.text[name] = self.text.get(name, "") + data


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    elements.close()
    assert not elements.open
    return elements


class TestPage:
    def test_every_element_is_closed_and_nothing_comes_from_elsewhere(self, told: RunReport) -> None:
        page = page_of(told)
        elements = parsed(page)
        assert not [tag for tag, attributes in elements.found if {"src", "href"} & attributes.keys()]
        # The only address is the name of SVG's namespace, which nobody opens.
        assert set(re.findall(r"https?://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}
        assert "url(" not in page
        assert "@import" not in page

    def test_the_document_in_it_is_the_one_beside_it(self, told: RunReport) -> None:
        page = page_of(told)
        embedded = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
        assert embedded is not None
        assert loads(embedded[1]) == told

    def test_names_and_reasons_cannot_end_an_element(self, told: RunReport) -> None:
        rows = tuple(replace(row, words=HOSTILE, model_id=HOSTILE, code=HOSTILE) for row in told.decisions)
        trace = told.run.trace
        assert trace is not None
        run = replace(told.run, trace=replace(trace, file=replace(trace.file, name=HOSTILE)))
        page = page_of(replace(told, decisions=rows, run=run))
        assert len(re.findall("<script", page)) == 2
        elements = parsed(page)
        assert elements.text["title"] == f"Tidegate: {HOSTILE}"
        embedded = re.search(r'id="report">(.*?)</script>', page, re.DOTALL)
        assert embedded is not None
        assert loads(embedded[1]).decisions == rows


def test_a_part_of_a_run_says_so(report: Report) -> None:
    source: Source = replace(SOURCE, ended_early="interrupted after 10 s")
    assert compose(report.facts, source).notes[0] == "This is a part of the run: interrupted after 10 s."


def test_what_was_asked_does_not_hang_on_what_was_recorded(report: Report) -> None:
    """A recorder looks and changes nothing."""
    assert SmallRun().run(BURST) == report.summary
