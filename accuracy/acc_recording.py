"""A recorded vLLM (0.32.0 on two CPU cores): fitted on idle, light and medium load, the rest of the run predicted.

Every request after the first 95 s is held out: overload, light load again, and a burst. The simulated engine gets the
arrivals and lengths of the recording and nothing else of it. Nulls: repeat the previous phase's median, and copy the
fitted phase of the nearest request rate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from accuracy.base import REPOSITORY, Cell, Report, Table, Tell, percent, shared_path, skill
from accuracy.intervals import BLOCK_S, RESAMPLES, middle_90, resampled, told, verdict
from accuracy.plot import Line, Panel, svg
from accuracy.recorded import FITTED_PHASES, OVERLOAD, Comparison, compare_recording, kind
from accuracy.recording_causes import causes
from simulator.calibration.replay import Floats, Times

REQUESTS = "vllm/recording_v0.32.0_requests.jsonl.gz"
METRICS = "vllm/recording_v0.32.0_metrics.jsonl.gz"
FULL_PAGE = "vllm/metrics_v0.32.0.txt"
PLOT = REPOSITORY / "build" / "accuracy" / "recording.svg"
DRAWS = 40
METRICS_OF: dict[str, Callable[[Times], Floats]] = {
    "TTFT": lambda times: times.ttft,
    "TPOT": lambda times: times.tpot,
    "E2E": lambda times: times.e2e,
}


def run(tell: Tell) -> Report:
    """Per phase: requests' times, single requests' errors, gauges; each beside its null."""
    paths = [shared_path(name) for name in (REQUESTS, METRICS, FULL_PAGE)]
    requests, metrics, page = paths
    if requests is None or metrics is None or page is None:
        return Report("recording", skipped=f"needs the shared data sets {REQUESTS}, {METRICS} and {FULL_PAGE}")
    tell("recording: fitting idle, light and medium load")
    found = compare_recording(requests, metrics, page, DRAWS, tell)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(_plot(found), encoding="utf-8")
    judged, differences = (_quantiles(found), _single_requests(found), _gauges(found)), _differences(found)
    nulls = _against_null(judged, differences)
    tables = (_fit_table(found), nulls, judged[0], differences, *judged[1:], *causes(found))
    overload = found.log.phases[OVERLOAD - 1]
    inside = found.within(overload)
    headline = {
        f"recording.overload.{name.lower()}_median_error": abs(
            float(np.median(of(found.simulated)[inside]) / np.median(of(found.log.times)[inside]) - 1)
        )
        for name, of in METRICS_OF.items()
    }
    return Report("recording", tables, files=(str(PLOT.relative_to(REPOSITORY)),), headline=headline)


def _fit_table(found: Comparison) -> Table:
    fitted = found.fitted
    rows: list[tuple[Cell, ...]] = [
        (name, f"{getattr(fitted.engine, name):.3g} s", percent(error))
        for name, error in fitted.relative_errors.items()
    ]
    rows += [(each.name, f"{each.value:.3g} s", f"held: {each.reason}") for each in fitted.held]
    return Table(
        "recording_fit",
        "The fit to idle, light and medium load",
        ("coefficient", "value", "standard error"),
        tuple(rows),
        n=fitted.numbers,
        free=len(fitted.relative_errors),
        remarks=(
            f"block_size {fitted.engine.block_size} from vllm:cache_config_info of the same server version (the "
            "recorded pages lack it); max_num_seqs and the number of blocks from its command line.",
            f"The pace of the real server wanders: what the fit leaves of its time between tokens spreads by "
            f"{percent(found.noise.sigma)} and is alike for {found.noise.memory_s:g} s. Standard errors take the "
            "requests as independent and are too small for that.",
        ),
    )


def _against_null(judged: tuple[Table, ...], differences: Table) -> Table:
    """Of each phase, how many figures of each table have a positive skill, and what is surely so."""
    places = [next(index for index, name in enumerate(table.columns) if name.startswith("skill")) for table in judged]
    phases = sorted({(str(row[0]), str(row[1])) for table in judged for row in table.rows})
    rows: list[tuple[Cell, ...]] = []
    for phase, what in phases:
        counts = []
        for table, place in zip(judged, places, strict=True):
            cells = [row[place] for row in table.rows if row[0] == phase]
            skills = [value for value in cells if isinstance(value, float)]
            counts.append(f"{sum(value > 0 for value in skills)} of {len(skills)}" if skills else None)
        surely = [str(row[-1]) for row in differences.rows if row[0] == phase]
        told_apart = f"{surely.count('better')} better, {surely.count('worse')} worse" if surely else None
        rows.append((phase, what, counts[0], told_apart, *counts[1:]))
    return Table(
        "recording_nulls",
        "Figures that are better than their null, by phase",
        ("phase", "", "medians and P95 of requests", "beyond the chance of which requests came when",
         "errors of single requests", "gauges"),
        tuple(rows),
        n=sum(len(table.rows) for table in judged),
        free=judged[0].free,
        remarks=("The null of a held-out phase may look at the phase before it, which the fit has not seen: where the "
                 "server's pace changed in between, as before the burst, the null knows of it.",),
    )  # fmt: skip


def _quantiles(found: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for number, phase, before in found.phases:
        inside = found.within(phase)
        for name, of in METRICS_OF.items():
            measured, simulated = of(found.log.times)[inside], of(found.simulated)[inside]
            nulls = [of(found.log.times)[found.within(each)] for each in (before, found.nearest_fitted(phase))]
            for q in (50, 95):
                truth = float(np.percentile(measured, q))
                error = float(np.percentile(simulated, q)) / truth - 1
                wrong = [float(np.percentile(null, q)) / truth - 1 for null in nulls]
                low, high = middle_90(
                    np.array([1000 * np.percentile(of(times)[inside], q) for times, _ in found.draws])
                )
                rows.append((
                    phase.name, kind(number), int(inside.sum()), f"{name} P{q}", round(truth * 1000, 2),
                    round(truth * 1000 * (1 + error), 2), percent(error), percent(wrong[0]), percent(wrong[1]),
                    round(skill(abs(error), min(map(abs, wrong))), 2),
                    f"{low:.3g} to {high:.3g}",
                ))  # fmt: skip
    return Table(
        "recording_requests",
        "Median and P95 of requests, by phase (ms)",
        ("phase", "", "n", "figure", "measured", "simulated", "error", "null: previous phase", "null: nearest fitted",
         "skill over the better null", f"90 % of {DRAWS} draws"),
        tuple(rows),
        n=int(sum(row[2] for row in rows if isinstance(row[2], int)) // 6),
        free=len(found.fitted.relative_errors),
        remarks=(
            "The last column is what the fitted phases tell: engines fitted to half of their blocks of time each, "
            "under paces that wander as theirs did. Under overload the queue follows from a small difference between "
            "arrivals and pace, so that a few percent of pace are a factor in the time to first token.",
        ),
    )  # fmt: skip


def _differences(found: Comparison) -> Table:
    """Each error less its null's, and whether that is more than the chance of which requests came when."""
    rows: list[tuple[Cell, ...]] = []
    arrival = found.log.times.arrival
    for number, phase, before in found.phases:
        inside, others = (
            found.within(phase),
            {each: found.within(each) for each in (before, found.nearest_fitted(phase))},
        )
        own = resampled(arrival[inside])
        drawn_of = {each: resampled(arrival[chosen], seed=1) for each, chosen in others.items()}
        for name, of in METRICS_OF.items():
            measured, simulated = of(found.log.times)[inside], of(found.simulated)[inside]
            for q in (50, 95):
                truth = np.array([np.percentile(measured[each], q) for each in own])
                errors = np.array([np.percentile(simulated[each], q) for each in own]) / truth - 1
                error = float(np.percentile(simulated, q) / np.percentile(measured, q) - 1)
                nulls = {
                    each: float(np.percentile(of(found.log.times)[chosen], q) / np.percentile(measured, q) - 1)
                    for each, chosen in others.items()
                }
                best = min(nulls, key=lambda each: abs(nulls[each]))
                values = of(found.log.times)[others[best]]
                null_errors = np.array([np.percentile(values[each], q) for each in drawn_of[best]]) / truth - 1
                difference = middle_90(np.abs(errors) - np.abs(null_errors))
                rows.append((
                    phase.name, kind(number), f"{name} P{q}", percent(error), told(middle_90(errors)),
                    f"{percent(nulls[best])} ({best.name})", told(middle_90(null_errors)),
                    percent(abs(error) - abs(nulls[best])), told(difference), verdict(difference),
                ))  # fmt: skip
    return Table(
        "recording_differences",
        "Errors less those of the better null, with 90 % intervals over the recorded requests",
        ("phase", "", "figure", "error", "90 %", "better null's error", "90 %", "difference of sizes", "90 %", "so"),
        tuple(rows),
        n=int(sum(found.within(phase).sum() for _, phase, _ in found.phases)),
        free=len(found.fitted.relative_errors),
        remarks=(
            f"Blocks of {BLOCK_S:g} s of requests are drawn again {RESAMPLES:,} times, with what was simulated of "
            "them; a phase of 40 s has eight of them, so that intervals are rough. What the fit does not know is not "
            "in here but in the draws above. Which null is the better is told with hindsight.",
        ),
    )  # fmt: skip


def _single_requests(found: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for number, phase, before in found.phases:
        inside = found.within(phase)
        for name, of in METRICS_OF.items():
            truth = of(found.log.times)[inside]
            errors = np.abs(of(found.simulated)[inside] / truth - 1)
            nulls = np.abs(np.median(of(found.log.times)[found.within(before)]) / truth - 1)
            error, null = float(np.median(errors)), float(np.median(nulls))
            rows.append((
                phase.name, kind(number), int(inside.sum()), name, percent(error),
                percent(float(np.percentile(errors, 95))), percent(null), percent(float(np.percentile(nulls, 95))),
                round(skill(error, null), 2),
            ))  # fmt: skip
    return Table(
        "recording_single",
        "Errors of single requests, by phase",
        ("phase", "", "n", "metric", "median error", "P95 of errors", "null's median error", "null's P95", "skill"),
        tuple(rows),
        n=int(sum(row[2] for row in rows if isinstance(row[2], int)) // 3),
        free=len(found.fitted.relative_errors),
        remarks=("Null: the previous phase's median for every request.",),
    )


def _gauges(found: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    at = found.measured.at
    previous = None
    for number, phase in enumerate(found.log.phases, 1):
        inside = (at > phase.start_s) & (at <= phase.end_s)
        for name in ("running", "waiting", "kv_use"):
            truth, value = getattr(found.measured, name), getattr(found.gauges, name)
            if previous is not None:
                errors = np.abs(value - truth)[inside]
                null = np.abs(np.nanmedian(truth[previous]) - truth[inside])
                mean_null = np.float64(np.nanmean(null))
                less = middle_90(np.array([np.nanmean(errors[each] - null[each]) for each in resampled(at[inside])]))
                rows.append((
                    phase.name, kind(number), int(inside.sum()), name, _short(np.nanmean(truth[inside])),
                    _short(np.nanmean(value[inside])), _short(np.nanmean(errors)), _short(np.nanmedian(errors)),
                    _short(np.nanpercentile(errors, 95)), _short(mean_null), _short(np.nanmedian(null)),
                    _short(np.nanpercentile(null, 95)),
                    round(skill(float(np.nanmean(errors)), float(mean_null)), 2) if mean_null else None,
                    f"{less[0]:.3g} to {less[1]:.3g}", verdict(less),
                ))  # fmt: skip
        previous = inside
    return Table(
        "recording_gauges",
        "Absolute errors of the gauges at each scrape, by phase",
        ("phase", "", "n", "gauge", "mean measured", "mean simulated", "mean error", "median error", "P95 of errors",
         "null's mean", "null's median", "null's P95", "skill (means)", "difference of means, 90 %", "so"),
        tuple(rows),
        n=int((at > found.log.phases[0].end_s).sum()),
        free=len(found.fitted.relative_errors),
        remarks=(
            "Null: the previous phase's median at every scrape. Medians of gauges are whole numbers and often 0; skill "
            "is of the mean errors. Where nothing ran, before and now, the null is perfect and no skill is told.",
        ),
    )  # fmt: skip


def _short(value: np.float64) -> float:
    return float(f"{value:.3g}")


def _plot(found: Comparison) -> str:
    at = found.measured.at
    marks = [(phase.start_s, f"{phase.rate_per_s:g}/s") for phase in found.log.phases]
    panels = []
    for name, title in (("waiting", "requests waiting"), ("running", "requests running"), ("kv_use", "KV cache use")):
        drawn = np.array([getattr(gauges, name) for _, gauges in found.draws])
        band = (np.percentile(drawn, 5, axis=0), np.percentile(drawn, 95, axis=0))
        panels.append(
            Panel(
                title,
                (
                    Line("simulated", at, getattr(found.gauges, name), band),
                    Line("measured", at, getattr(found.measured, name)),
                ),
            )
        )
    arrival = found.log.times.arrival
    drawn = np.array([times.ttft for times, _ in found.draws])
    band = (np.percentile(drawn, 5, axis=0), np.percentile(drawn, 95, axis=0))
    panels.append(
        Panel(
            "time to first token (s)",
            (Line("simulated", arrival, found.simulated.ttft, band), Line("measured", arrival, found.log.times.ttft)),
        )
    )
    title = f"vLLM 0.32.0 on CPU: fitted on the first {FITTED_PHASES} phases, the rest predicted (band: 90 % of paces)"
    return svg(title, panels, marks)
