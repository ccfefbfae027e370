"""A simulated run's report in a folder: `simulate --out`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

from broker.app.release import release
from broker.model.errors import ConfigError
from broker.model.spec import PolicySpec
from cli.interrupts import Interrupts
from cli.output import errors
from cli.simulating import Simulated, TraceRun, simulate_trace
from simulator.report.compose import Source, compose
from simulator.report.document import FileUsed, Oracle, RunReport, TraceUsed
from simulator.report.facts import Facts
from simulator.report.folder import PAGE, write_folder
from simulator.report.gap import HEADROOMS, oracle_of
from simulator.report.options import OracleChoice
from simulator.report.render import partial_words
from simulator.report.tables import WHOLE

LONGEST_PLANNED_S = 60.0
"""A clairvoyant plan is executed by up to five runs more; of those that took longer it must be asked for."""

LEAST_KEPT = 0.5
"""A plan is held to the run's own share in time; one that is to fail most requests, too, is no standard."""


def write_report(
    run: TraceRun, simulated: Simulated, folder: Path, *, oracle: OracleChoice, interrupts: Interrupts
) -> None:
    """A run that was ended early has its report without the oracle, and so has one whose oracle is interrupted. A signal
    that comes while the files are written waits for them, a second one does not.

    Raises as ``simulate_trace``, ``InvariantViolated`` for a run that costs less than anything can, and the
    ``KeyboardInterrupt`` that ended the search for the oracle when the report is written.
    """
    facts = simulated.report.facts
    interrupted: KeyboardInterrupt | None = None
    try:
        found = _oracle(run, simulated, facts, oracle)
    except KeyboardInterrupt as interrupt:
        found, interrupted = _without("it was interrupted"), interrupt
    with interrupts.waiting():
        with_tables = write_folder(folder, report_of(run, simulated, oracle=found), facts)
    if not with_tables:
        errors.print(f"no Parquet files: they need pyarrow ({WHOLE})", highlight=False, markup=False)
    errors.print(f"report: {folder / PAGE}", highlight=False, markup=False, soft_wrap=True)
    if interrupted is not None:
        raise interrupted


def report_of(run: TraceRun, simulated: Simulated, *, oracle: Oracle | None = None) -> RunReport:
    """The document of a run."""
    summary = simulated.report.summary
    counts = summary.trace
    trace = None
    if counts is not None and run.trace is not None:
        trace = TraceUsed(
            _used(run.trace), counts.rows, counts.failed, counts.bad, counts.window, counts.rate_scale,
            run.scale_method.value, summary.started_at if simulated.dated else None,
        )  # fmt: skip
    source = Source(
        version=release(),
        seed=run.seed,
        dated=simulated.dated,
        policies=_used(run.policies),
        site=_used_if(run.site),
        trace=trace,
        scenario=_used_if(run.scenario),
        cluster_file=_used_if(run.cluster),
        ended_early="" if summary.partial is None else partial_words(summary.partial),
    )
    return compose(simulated.report.facts, source, oracle=oracle)


def _oracle(run: TraceRun, simulated: Simulated, facts: Facts, wanted: OracleChoice) -> Oracle:
    if wanted is OracleChoice.NEVER:
        return _without("--oracle never was given")
    if simulated.report.summary.partial is not None:
        return _without("the run was ended early")
    if not facts.asked:
        return _without("nothing was asked")
    always = wanted is OracleChoice.ALWAYS
    left_out = "" if always else plan_left_out(simulated.wall_s, float(facts.kept.mean()))
    numbers = itertools.count(1)
    try:
        with errors.status("looking for the best that was possible") as status:

            def execute(policies: Mapping[str, PolicySpec]) -> Facts:
                doing = f"plan that knows the future, {next(numbers)} of at most {len(HEADROOMS)}"
                status.stop()  # the run shows its own progress
                found = simulate_trace(run, policies, doing=doing, harm=False).report.facts
                status.start()
                return found

            return oracle_of(facts, None if left_out else execute, left_out=left_out)
    except ConfigError as error:
        if always:
            raise
        return _without(str(error))


def plan_left_out(wall_s: float, kept: float) -> str:
    """Why no clairvoyant plan is made unless it is asked for: for a run of ``wall_s`` seconds that ``kept`` this share
    in time. Empty if one is made."""
    if wall_s > LONGEST_PLANNED_S:
        return f"the run took {wall_s:.0f} s, and the plan takes up to five more; --oracle always makes it"
    if kept < LEAST_KEPT:
        return (
            f"the run answered {kept:.1%} in time, and what it takes to do no better tells little; "
            "--oracle always makes the plan"
        )
    return ""


def _without(words: str) -> Oracle:
    return Oracle(left_out=words, clairvoyant_left_out=words)


def _used_if(path: Path | None) -> FileUsed | None:
    return _used(path) if path is not None else None


def _used(path: Path) -> FileUsed:
    with path.open("rb") as file:
        return FileUsed(path.name, hashlib.file_digest(file, "sha256").hexdigest())
