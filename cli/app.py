"""The commands of ``tidegate``, put together.

Every command is declared here, whichever is called, so that help, completion and ``--version`` come at once only if
declaring is cheap: a module that declares commands imports at its top what signatures need, and in the functions what
carries them out (numpy, pydantic, HTTP).
"""

from __future__ import annotations

from typing import Annotated

import typer

from cli import operate
from cli.adopt import adopt
from cli.calibrate import calibrate
from cli.compare import compare
from cli.demo.command import demo
from cli.doctor import doctor
from cli.gateway import gateway
from cli.init import init
from cli.policy import policy
from cli.serve import run
from cli.simulate import simulate
from cli.state import state
from cli.sweep import sweep
from cli.trace import trace

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
app.command()(simulate)
app.command()(sweep)
app.command()(compare)
app.command()(calibrate)
app.command()(operate.explain)
app.command()(operate.decisions)
app.command()(operate.models)
app.command()(operate.endpoints)
app.add_typer(operate.replicas, name="replicas")
app.command()(operate.scale)
app.command()(operate.hold)
app.command()(operate.pause)
app.command()(operate.resume)
app.add_typer(policy, name="policy")
app.add_typer(doctor, name="doctor")
app.add_typer(state, name="state")
app.add_typer(trace, name="trace")


def _version(wanted: bool) -> None:
    if wanted:
        from broker.app.release import release

        typer.echo(f"tidegate {release()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before any command."""
