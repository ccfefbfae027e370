"""``tidegate dead-letters``: what nobody could read of a log in Kafka, and putting it back."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from broker.model.errors import TidegateError
from broker.model.units import format_count, format_duration
from cli.output import Exit, fail, local_time, moment_option, print_json, table, tell, told_errors
from cli.site import HERE, kafka_of

if TYPE_CHECKING:
    from broker.log.kafka.client import Connection
    from broker.log.kafka.dead_letters import Letter, Retry, Wanted
    from broker.log.kafka.messages import Found
    from broker.log.kafka.topics import Layout

dead_letters = typer.Typer(
    name="dead-letters", help="What nobody could read of a log in Kafka: shown, and put back.", no_args_is_help=True
)

Topic = Annotated[str, typer.Option("--topic", metavar="TOPIC", help="Only of this topic: `signals`, `requests` or `gateway-sessions`.", show_default=False)]  # fmt: skip
Since = Annotated[str, typer.Option("--since", metavar="T", help="Only messages since this time, as `2026-11-22T07:00`, or `2h` for two hours ago.", show_default=False)]  # fmt: skip
Site = Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")]


@dead_letters.command("list")
def show(
    topic: Topic = "",
    since: Since = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many of the newest.")] = 100,
    site: Site = HERE,
    as_json: AsJson = False,
) -> None:
    """Show the messages that nobody could read, the newest first, each with the reason and where it lies. Changes
    nothing."""
    import asyncio

    from broker.model import wire

    configure_logging(sys.stderr, warnings_only=True)
    with told_errors():
        connection, layout = kafka_of(site)
        from broker.log.kafka.dead_letters import listed

        found = asyncio.run(listed(connection, layout, _wanted(topic, since), limit))
    if as_json:
        letters = [wire.encode(letter) for letter in found.letters]
        print_json({"letters": letters, "more": found.more, "foreign": found.foreign})
        return
    columns = ("letter", "age", "lies in", "state", "reason", "message")
    rows = [
        (letter.number, _age(letter), _lies_in(letter), _state(letter), letter.reason, letter.message[:200])
        for letter in found.letters
    ]
    _show(columns, rows, whole=("letter", "age", "lies in"), lesser=("message", "state"))
    if found.more:
        tell(f"Only the newest {limit}; --limit shows more, --since and --topic others.")
    if found.foreign:
        tell(f"{format_count(found.foreign, 'record')} beside them are no letters, and were left out.")


@dead_letters.command("retry")
def retry(
    letters: Annotated[list[int] | None, typer.Argument(metavar="LETTER...", help="The numbers of letters, as `list` shows them.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were not put back yet (--topic, --since: of these).")] = False,
    topic: Topic = "",
    since: Since = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would be put back.")] = False,
    site: Site = HERE,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Put messages that can be read by now back into the topic they came from, each once: what was put back bears a mark.
    What still cannot be read is left, and the command ends with 1 then.

    Windows of signals take a message only for as long as it is fresh (limits.signal_patience); one that is older is
    there for whoever else reads the topic."""
    import asyncio

    configure_logging(sys.stderr, warnings_only=True)
    if every == bool(letters):
        raise fail("name the letters to put back by their numbers, or say --all", Exit.USAGE)
    if letters and (topic or since):
        raise fail("--topic and --since choose among --all; letters are named by their numbers", Exit.USAGE)
    outcomes: list[Retry] = []
    with told_errors():
        connection, layout = kafka_of(site)
        wanted = _wanted(topic, since)
        try:
            asyncio.run(_retry(outcomes, connection, layout, letters or [], wanted, dry_run=dry_run))
        except TidegateError:
            if outcomes:  # what was done before it failed
                _tell(outcomes, dry_run=dry_run, as_json=as_json)
            raise
    _tell(outcomes, dry_run=dry_run, as_json=as_json)
    if any(outcome.problem for outcome in outcomes):
        raise typer.Exit(int(Exit.FAILED))


async def _retry(
    outcomes: list[Retry], connection: Connection, layout: Layout, numbers: Sequence[int], wanted: Wanted, *,
    dry_run: bool,
) -> None:  # fmt: skip
    from broker.clock import SystemClock
    from broker.log.kafka.dead_letters import letters_retried
    from signals.ingest.partitions import Arrived, measurement

    def read(topic: str, found: Found) -> None:
        measurement(Arrived(topic, 0, found.offset, found.at_ms / 1e3, found.key, found.value))

    now = SystemClock().now
    async for outcome in letters_retried(connection, layout, numbers, wanted, read, now, dry_run=dry_run):
        outcomes.append(outcome)


def _tell(outcomes: Sequence[Retry], *, dry_run: bool, as_json: bool) -> None:
    from broker.model import wire

    shown = [(outcome, _done(outcome, dry_run=dry_run)) for outcome in outcomes]
    if as_json:
        print_json({"letters": [{"done": done, **wire.encode(outcome)} for outcome, done in shown]})
        return
    columns = ("letter", "lies in", "done", "why not")
    rows = [
        (outcome.number, outcome.letter and _lies_in(outcome.letter), done, outcome.problem) for outcome, done in shown
    ]
    _show(columns, rows, whole=("letter", "lies in", "done"))
    counts = Counter(done for _, done in shown)
    tell("; ".join(f"{count} {done}" for done, count in counts.items()) or "Nothing waits to be put back.")


def _show(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str], lesser: Sequence[str] = ()
) -> None:
    """Anybody may have written a message: what would tell a terminal to do something is shown as it is written."""
    safe = [[None if cell is None else _printable(str(cell)) for cell in row] for row in rows]
    table("Dead letters", columns, safe, whole=whole, lesser=lesser)


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _done(outcome: Retry, *, dry_run: bool) -> str:
    if outcome.problem:
        return "left"
    if outcome.before:
        return "put back before"
    return "would be put back" if dry_run else "put back"


def _wanted(topic: str, since: str) -> Wanted:
    from broker.log.kafka.dead_letters import ORIGINS, Wanted

    if topic not in ("", *ORIGINS):
        raise fail(f"--topic: {topic!r} is none of {', '.join(ORIGINS)}", Exit.USAGE)
    return Wanted(topic, moment_option("--since", since) if since else 0.0)


def _age(letter: Letter) -> str:
    from broker.clock import SystemClock

    return format_duration(max(0, round(SystemClock().now() - letter.at)))


def _lies_in(letter: Letter) -> str:
    if letter.gateway_id is not None:
        return f"{letter.topic}, by HTTP from {letter.gateway_id}"
    return f"{letter.topic} {letter.partition}:{letter.offset}"


def _state(letter: Letter) -> str:
    return "" if letter.retried_at is None else f"put back {local_time(letter.retried_at, '%F %T')}"
