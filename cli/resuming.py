"""``tidegate simulate --resume-from``: what was observed around a violation, replayed and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broker.model import wire
from broker.model.plan import Plan
from cli.output import Exit, fail, print_json, tell
from policies.registry import cached
from simulator.checks.replaying import Resumed, Verdict, resume
from simulator.checks.saved import SavedObservations, read_saved


def resume_from(path: Path, *, as_json: bool) -> None:
    """Print each step's decisions and what is wrong. Raises ``ConfigError``, and ``typer.Exit`` if something is."""
    saved = read_saved(path)
    decisions: list[dict[str, Any]] = []

    def told(number: int, plan: Plan) -> None:
        for decision in plan.decisions:
            if as_json:
                decisions.append({"step": number} | wire.encode(decision))
            else:
                tell(_line(number, saved, plan, decision))

    resumed = resume(saved, cached(), told)
    if as_json:
        print_json(
            {
                "verdict": resumed.verdict.value, "problem": resumed.problem, "saved_problem": saved.problem,
                "steps": resumed.steps, "last_step": resumed.number, "differs_from": resumed.differs_from,
                "decisions": decisions,
            }
        )  # fmt: skip
    if resumed.verdict is not Verdict.GONE:
        raise fail(_words(saved, resumed), Exit.FAILED)
    if not as_json:
        tell(_words(saved, resumed))


def _line(number: int, saved: SavedObservations, plan: Plan, decision: Any) -> str:
    second = plan.now - saved.began_at
    actions = f" [{'; '.join(decision.actions)}]" if decision.actions else ""
    return (
        f"step {number}, {second:.1f}s: {decision.model_id} {decision.before} -> {decision.target} "
        f"({decision.code}: {decision.words}){actions}"
    )


def _words(saved: SavedObservations, resumed: Resumed) -> str:
    course = (
        "every step decides as it was recorded"
        if resumed.differs_from is None
        else f"from step {resumed.differs_from} on it is decided otherwise than it was recorded"
    )
    match resumed.verdict:
        case Verdict.SAME:
            return f"step {resumed.number}: {resumed.problem}; the same as when it was saved ({course})"
        case Verdict.ANOTHER:
            return f"step {resumed.number}: {resumed.problem}; when it was saved it was another: {saved.problem} ({course})"
        case Verdict.GONE:
            return f"{resumed.steps} steps replayed: what was saved is gone ({saved.problem}); {course}"
