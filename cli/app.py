"""The commands of ``tidegate``, put together.

Every command is declared here, whichever is called, so that help, completion and ``--version`` come at once only if
declaring is cheap: a module that declares commands imports at its top what signatures need, and in the functions what
carries them out (numpy, pydantic, HTTP).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated

import typer

from cli import operate
from cli.adopt import adopt
from cli.calibrate import calibrate
from cli.compare import compare
from cli.dead_letters import dead_letters
from cli.demo.command import demo
from cli.doctor import doctor
from cli.gateway import gateway
from cli.init import init
from cli.policy import policy
from cli.replay_log import replay_log
from cli.scraper import scraper
from cli.serve import run
from cli.simulate import simulate
from cli.state import state
from cli.sweep import sweep
from cli.topics import topics
from cli.trace import trace
from cli.worker import worker

app = typer.Typer(
    name="tidegate",
    help="Keep the right number of ready vLLM replicas behind every model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(demo)
app.command()(init)
app.command()(run)
app.command()(adopt)
app.command()(gateway)
app.command()(worker)
app.command()(scraper)
app.command()(simulate)
app.command()(sweep)
app.command()(compare)
app.command()(calibrate)
app.command()(operate.explain)
app.command()(operate.decisions)
app.command("replay-log")(replay_log)
app.command()(operate.models)
app.command()(operate.endpoints)
app.add_typer(operate.replicas, name="replicas")
app.command()(operate.scale)
app.command()(operate.hold)
app.command()(operate.pause)
app.command()(operate.resume)
app.add_typer(policy, name="policy")
app.add_typer(doctor, name="doctor")
app.add_typer(topics, name="topics")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(state, name="state")
app.add_typer(trace, name="trace")


def _version(wanted: bool) -> None:
    if wanted:
        from broker.app.release import release

        typer.echo(f"tidegate {release()}")
        raise typer.Exit


def _in_paragraphs(groups: Sequence[typer.Typer]) -> None:
    """Help flows with the terminal. Typer keeps the line breaks of a docstring behind its first paragraph, and wraps each
    line by itself."""
    for command in (command for group in groups for command in group.registered_commands):
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_in_paragraphs([app, *(group.typer_instance for group in app.registered_groups if group.typer_instance)])


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before any command."""
