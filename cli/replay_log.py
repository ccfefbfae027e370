"""``tidegate replay-log``: every recorded step decided again, and what differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import fail, local_time, moment_option, print_json, tell, told_errors
from cli.recorded import LogPath, Site, existing_log

if TYPE_CHECKING:
    from broker.control.replay import Replayed
    from broker.model.ports import Log


def replay_log(
    since: Annotated[str | None, typer.Option("--from", metavar="T", help="Begin at the last checkpoint before this time, as `2026-11-22T07:00`, or `2h` for two hours ago (default: at the oldest step that is kept).", show_default=False)] = None,
    log: LogPath = None,
    site: Site = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Decide every kept step again from its recorded observations, and compare, also while a broker runs. Ends with 1 and
    shows what differs if anything does."""
    import asyncio

    from_time = None if since is None else moment_option("--from", since)
    with told_errors():
        outcome = asyncio.run(_replayed(existing_log(log, site), from_time))
    different = outcome.different
    if as_json:
        number = None if different is None else different.record.number
        differences = [] if different is None else list(different.differences())
        print_json({"steps": outcome.steps, "different": number, "differences": differences})
    if different is not None:
        if not as_json:
            for difference in different.differences():
                tell(difference)
        record = different.record
        raise fail(
            f"step {record.number} of {local_time(record.now, '%F %T')} decides otherwise when replayed; was it recorded "
            "by another version?"
        )
    if not as_json:
        same = f"{outcome.steps} steps replayed: the same decisions, effects and state, byte for byte"
        tell(same if outcome.steps else "no step is on record yet: nothing was replayed")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How many steps came out the same, and the first that did not."""

    steps: int
    different: Replayed | None


async def _replayed(log: Log, from_time: float | None) -> _Outcome:
    from broker.control.replay import replay
    from policies.registry import cached

    steps = 0
    try:
        start = None if from_time is None else await log.checkpoint_before(from_time)
        async for replayed in replay(log, cached(), start=start):
            if not replayed.same:
                return _Outcome(steps, replayed)
            steps += 1
    finally:
        await log.close()
    return _Outcome(steps, None)
