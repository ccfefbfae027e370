"""``tidegate policy``: check files before a broker reads them; schemas for editors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.output import Exit, console, fail, print_json, tell, told_errors


class Schema(StrEnum):
    POLICIES = "policies"
    SITE = "site"


policy = typer.Typer(
    help="Check site, policy, sweep, scenario and cluster files; print JSON Schemas.", no_args_is_help=True
)


@policy.command("lint")
def lint(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES", help="policies.yaml, and site.yaml to check pools against; sweeps, scenarios, clusters."
        ),
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Tell every problem of the files with file, line, field and what would be right.

    A sweep is planned, which reads all files that it names, but nothing is run.
    """
    from cli.lint import lint as look

    for path in files:
        if not path.exists() or path.is_dir():
            raise fail(f"there is no file {path}", Exit.USAGE)
    with told_errors():
        found = look(*files)
    if as_json:
        print_json(
            {
                kind: [{"file": p.path, "line": p.line, "field": p.field, "problem": p.problem} for p in problems]
                for kind, problems in (("problems", found.problems), ("warnings", found.warnings))
            }
        )
    else:
        for problem in found.problems:
            console.print(f"[red]problem[/] {escape(str(problem))}", soft_wrap=True, highlight=False)
        for warning in found.warnings:
            console.print(f"[yellow]warning[/] {escape(str(warning))}", soft_wrap=True, highlight=False)
        if not (found.problems or found.warnings):
            tell("nothing to say against " + ", ".join(str(path) for path in files))
    if found.problems or (strict and found.warnings):
        raise typer.Exit(int(Exit.FAILED))


@policy.command("schema")
def schema(
    which: Annotated[Schema, typer.Argument(metavar="WHICH", help="Of which file.")] = Schema.POLICIES,
) -> None:
    """Print the JSON Schema that editors complete and check with."""
    from broker.app.settings import policies_json_schema, site_json_schema

    print_json(policies_json_schema() if which is Schema.POLICIES else site_json_schema())
