"""Commands that ask and order a running broker."""

from __future__ import annotations

import getpass
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.model.units import format_duration, parse_duration_s
from cli.client import DEFAULT_BROKER, BrokerClient
from cli.output import Exit, console, fail, print_json, table

Broker = Annotated[str, typer.Option("--broker", envvar="TIDEGATE_BROKER", help="The broker's address.")]
Token = Annotated[
    str | None, typer.Option("--token", help="Bearer token (default: TIDEGATE_TOKEN).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Author = Annotated[str | None, typer.Option("--author", help="Who orders it (default: your user name).")]


def _author(given: str | None) -> str:
    return given or getpass.getuser()


def _clock(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")


def _duration(text: str) -> float:
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise fail(str(error), Exit.USAGE) from None


def explain(
    model: Annotated[str, typer.Argument(help="The model to explain.")],
    broker: Broker = DEFAULT_BROKER, token: Token = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Tell why the last decision on a model was taken, and what would have changed it."""
    body = BrokerClient(broker, token, timeout_s=60.0).get(f"/v1/explain/{model}")
    if as_json:
        print_json(body)
        return
    for words in body["words"]:
        console.print(words, soft_wrap=True, markup=False, highlight=False)


def decisions(
    model: Annotated[str | None, typer.Argument(help="Only of this model.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    broker: Broker = DEFAULT_BROKER, token: Token = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the latest decisions with their reasons."""
    body = BrokerClient(broker, token).get("/v1/decisions", model=model, limit=limit)
    if as_json:
        print_json(body)
        return
    rows = [
        (_clock(d["now"]), d["model_id"], f"{d['before']} -> {d['target']}", d["code"], d["words"])
        for d in body["decisions"]
    ]
    table("Decisions", ("time", "model", "target", "reason", "in words"), rows)


def endpoints(broker: Broker = DEFAULT_BROKER, token: Token = None, as_json: Json = False) -> None:
    """List the published endpoints, as gateways see them."""
    body = BrokerClient(broker, token).get("/v1/endpoints")
    if as_json:
        print_json(body)
        return
    rows = [(e["endpoint_id"], e["model_id"], e["phase"], e["tier"], e["url"]) for e in body["endpoints"]]
    table(f"Endpoints at revision {body['revision']}", ("endpoint", "model", "phase", "tier", "url"), rows)


replicas = typer.Typer(help="Replicas on record, and their logs.", invoke_without_command=True, no_args_is_help=False)


@replicas.callback()
def list_replicas(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    broker: Broker = DEFAULT_BROKER, token: Token = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the broker's record of each replica."""
    if context.invoked_subcommand is not None:
        return
    body = BrokerClient(broker, token).get("/v1/replicas", model=model)
    if as_json:
        print_json(body)
        return
    rows = [_replica_row(replica, body["now"]) for replica in body["replicas"]]
    table("Replicas", ("replica", "phase", "since", "pool", "tier", "url", "detail"), rows)


def _replica_row(replica: dict[str, Any], now: float) -> tuple[str, ...]:
    since = format_duration(round(max(0.0, now - replica["phase_since"])))
    detail = replica["failure"] or replica["detail"]
    return (
        replica["replica_id"], replica["phase"], since, replica["pool_id"], replica["tier"], replica["url"] or "", detail,
    )  # fmt: skip


@replicas.command("logs")
def replica_logs(
    replica: Annotated[str, typer.Argument(help="The replica's id, as `tidegate replicas` shows it.")],
    tail: Annotated[int, typer.Option("--tail", "-n", help="How many of the last lines.")] = 100,
    log_dir: Annotated[Path, typer.Option("--log-dir", help="The local pool's log_dir.")] = Path("var/log"),
) -> None:
    """Print the end of a local replica's output."""
    if "/" in replica or replica.startswith("."):
        raise fail(f"{replica!r} is no replica's id", Exit.USAGE)
    path = log_dir / f"{replica}.log"
    try:
        with path.open(errors="replace") as stream:
            for line in deque(stream, maxlen=max(1, tail)):
                typer.echo(line, nl=False)
    except OSError as error:
        raise fail(f"no log of {replica}: {error}. Is --log-dir the local pool's log_dir?") from None


def scale(
    model: Annotated[str, typer.Argument(help="The model.")],
    target: Annotated[int, typer.Argument(min=0, help="Replicas wanted; bounds and limits still hold.")],
    for_: Annotated[str, typer.Option("--for", help="How long, such as 30m or 2h.")],
    because: Annotated[str, typer.Option("--because", help="Why; kept with every decision it causes.")],
    author: Author = None, broker: Broker = DEFAULT_BROKER, token: Token = None,
) -> None:  # fmt: skip
    """Override a model's target for a time."""
    _override(model, target, for_, because, author, broker, token)


def hold(
    model: Annotated[str, typer.Argument(help="The model.")],
    for_: Annotated[str, typer.Option("--for", help="How long, such as 30m or 2h.")] = "1h",
    because: Annotated[str, typer.Option("--because", help="Why.")] = "held by an operator",
    release: Annotated[bool, typer.Option("--release", help="Take an override or hold back.")] = False,
    author: Author = None, broker: Broker = DEFAULT_BROKER, token: Token = None,
) -> None:  # fmt: skip
    """Hold a model's present target for a time, or release it."""
    if release:
        BrokerClient(broker, token).delete(f"/v1/overrides/{model}", author=_author(author))
        console.print(f"{model}: the policy decides again.")
        return
    _override(model, None, for_, because, author, broker, token)


def _override(
    model: str, target: int | None, for_: str, because: str, author: str | None, broker: str, token: str | None
) -> None:
    body = {
        "model_id": model, "target": target, "for_s": _duration(for_), "because": because, "author": _author(author),
    }  # fmt: skip
    until = BrokerClient(broker, token).post("/v1/overrides", body)["until"]
    what = "held at its present target" if target is None else f"set to {target}"
    console.print(f"{model}: {what} until {_clock(until)}.")


def _pause(
    scope: str, name: str, paused: bool, because: str, author: str | None, broker: str, token: str | None
) -> None:
    if scope not in ("all", "pool", "model") or (scope == "all") != (name == ""):
        raise fail("say `all`, `pool NAME` or `model NAME`", Exit.USAGE)
    body = {"scope": scope, "name": name, "paused": paused, "because": because, "author": _author(author)}
    BrokerClient(broker, token).post("/v1/pauses", body)
    frozen = "starts and stops are frozen; what serves keeps serving" if paused else "starts and stops go on"
    console.print(f"{scope} {name}".strip() + f": {frozen}.")


Scope = Annotated[str, typer.Argument(help="all, pool or model.")]
Name = Annotated[str, typer.Argument(help="The pool's or model's name.")]


def pause(
    scope: Scope, name: Name = "",
    because: Annotated[str, typer.Option("--because", help="Why.")] = "paused by an operator",
    author: Author = None, broker: Broker = DEFAULT_BROKER, token: Token = None,
) -> None:  # fmt: skip
    """Freeze starts and stops of everything, one pool or one model."""
    _pause(scope, name, True, because, author, broker, token)


def resume(
    scope: Scope, name: Name = "",
    because: Annotated[str, typer.Option("--because", help="Why.")] = "resumed by an operator",
    author: Author = None, broker: Broker = DEFAULT_BROKER, token: Token = None,
) -> None:  # fmt: skip
    """Take a pause back."""
    _pause(scope, name, False, because, author, broker, token)
