"""Commands that ask and order a running broker."""

from __future__ import annotations

import getpass
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.model.replica import ENDED
from broker.model.units import format_duration
from cli.logs import replica_logs
from cli.output import Exit, duration_option, fail, local_time, print_json, table, tell, told_errors
from cli.rendering import render
from cli.site import Broker, Site

if TYPE_CHECKING:
    from cli.client import BrokerClient

Token = Annotated[
    str | None,
    typer.Option("--token", help="Bearer token (default: TIDEGATE_TOKEN, else the site file's).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")]
Author = Annotated[
    str | None, typer.Option("--author", help="Who orders it (default: your user name).", show_default=False)
]
For = Annotated[str, typer.Option("--for", help="How long, such as 30m or 2h.")]


def _client(
    broker: str | None, token: str | None, site: Path | None, *, orders: bool = False, timeout_s: float = 15.0
) -> BrokerClient:
    """``orders``: with a token that may operate, not only read."""
    from cli.client import OPERATING, READING, BrokerClient

    return BrokerClient(broker, token, site, scopes=OPERATING if orders else READING, timeout_s=timeout_s)


def _author(given: str | None) -> str:
    if given:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as containers have
        return f"uid {os.getuid()}"


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to explain.")],
    broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Tell why the last decision on a model was taken, and what would have changed it."""
    with told_errors():
        body = _client(broker, token, site, timeout_s=60.0).get("v1", "explain", model)
    if as_json:
        print_json(body)
        return
    for words in body["words"]:
        tell(words)


def decisions(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only of this model.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, newest first.")] = 20,
    broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the latest decisions with their reasons."""
    with told_errors():
        body = _client(broker, token, site).get("v1", "decisions", model=model, limit=limit)
    if as_json:
        print_json(body)
        return
    rows = [
        (local_time(d["now"]), d["model_id"], f"{d['before']} -> {d['target']}", d["code"], d["words"])
        for d in body["decisions"]
    ]
    table(
        "Decisions", ("time", "model", "target", "reason", "in words"), rows, whole=("time", "target"),
        lesser=("reason",),
    )  # fmt: skip


def models(broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False) -> None:
    """List the models: targets, replicas by phase, overrides; and what is paused."""
    with told_errors():
        body = _client(broker, token, site).get("v1", "models")
    if as_json:
        print_json(body)
        return
    table(
        "Models",
        ("model", "target", "min..max", "replicas", "policy", "override", "last reason"),
        [_model_row(model) for model in body["models"]],
        whole=("model",),
        lesser=("policy", "last reason"),
    )
    for model in body["models"]:
        for words in model.get("standing", ()):
            tell(f"{model['model_id']}: {words}")
    for pause in body.get("pauses", ()):
        what = f"{pause['scope']} {pause['name']}".strip()
        tell(
            f"paused: {what}, by {pause['author']} since {local_time(pause['received_at'], '%F %T')}: {pause['because']}"
        )


def _model_row(model: dict[str, Any]) -> tuple[object, ...]:
    phases = _counted({phase: count for phase, count in model["phases"].items() if phase not in ENDED})
    override = model["override"]
    ordered = ""
    if override is not None:
        what = "hold" if override["target"] is None else f"{override['target']}"
        ordered = f"{what} by {override['author']} until {local_time(override['until'])}"
    bounds = "retired" if model["retired"] else f"{model['minimum']}..{model['maximum']}"
    return (model["model_id"], model["target"], bounds, phases, model["policy"], ordered, model["last_code"])


def _counted(phases: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))


def endpoints(broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False) -> None:
    """List the published endpoints, as gateways see them."""
    with told_errors():
        body = _client(broker, token, site).get("v1", "endpoints")
    if as_json:
        print_json(body)
        return
    rows = [(e["endpoint_id"], e["model_id"], e["phase"], e["tier"], e["url"]) for e in body["endpoints"]]
    table(
        f"Endpoints at revision {body['revision']}", ("endpoint", "model", "phase", "tier", "url"), rows,
        whole=("endpoint", "phase", "url"), lesser=("tier", "model"),
    )  # fmt: skip


replicas = typer.Typer(
    help="Replicas on record (without a command: list them), their logs and their jobs.",
    invoke_without_command=True, no_args_is_help=False,
)  # fmt: skip
replicas.command("render")(render)
replicas.command("logs")(replica_logs)


@replicas.callback()
def list_replicas(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the replicas that live, and why others failed; `tidegate replicas logs` shows what one wrote."""
    if context.invoked_subcommand is not None:
        return
    with told_errors():
        body = _client(broker, token, site).get("v1", "replicas", model=model)
    if as_json:
        print_json(body)
        return
    ended = Counter(replica["phase"] for replica in body["replicas"] if replica["phase"] in ENDED)
    shown = [replica for replica in body["replicas"] if everything or replica["phase"] not in ENDED]
    rows = [_replica_row(replica, body["now"]) for replica in shown]
    table(
        "Replicas", ("replica", "phase", "since", "pool", "runs as", "ends", "tier", "url", "detail"), rows,
        whole=("replica", "phase", "since", "url"), lesser=("tier", "pool", "since", "ends", "runs as"),
    )  # fmt: skip
    if ended and not everything:
        tell(f"Ended: {_counted(ended)}; --all lists them.")
    unknown = unknown_told(body.get("pools", ()), body["now"])
    for words in (*waits_told(body["replicas"]), *failures_told(body["replicas"]), *unknown):
        tell(words)


def waits_told(replicas: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each reason to wait, with those that wait for it: too long for a table's cell."""
    waiting: dict[str, list[str]] = {}
    for replica in replicas:
        if replica["phase"] == "pending" and replica["detail"]:
            waiting.setdefault(replica["detail"], []).append(replica["replica_id"])
    for words, names in waiting.items():
        yield f"pending: {', '.join(names)}: {words}"


def failures_told(replicas: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each reason to fail, with those that did: too long for a table's cell."""
    failed: dict[tuple[str, str], list[str]] = {}
    for replica in replicas:
        if replica["failure"]:
            failed.setdefault((replica["failure"], replica["detail"]), []).append(replica["replica_id"])
    for (failure, detail), names in failed.items():
        more = "" if detail in ("", failure) else f": {detail}"
        yield f"{', '.join(names)} failed ({failure}){more}"


def unknown_told(pools: Sequence[dict[str, Any]], now: float) -> Iterator[str]:
    """A line for each pool that cannot be listed: the table shows what was there before."""
    for pool in pools:
        if pool["unknown_since"] is not None:
            for_ = format_duration(round(max(0.0, now - pool["unknown_since"])))
            yield f"pool {pool['pool_id']} has been unknown for {for_}, and nothing is started there: {pool['error']}"


def _replica_row(replica: dict[str, Any], now: float) -> tuple[str, ...]:
    since = format_duration(round(max(0.0, now - replica["phase_since"])))
    detail = replica["failure"] or replica["detail"]
    ends = "" if replica["not_after"] is None else local_time(replica["not_after"], "%F %H:%M")
    return (
        replica["replica_id"], replica["phase"], since, replica["pool_id"], replica["runs_as"], ends, replica["tier"],
        replica["url"] or "", detail,
    )  # fmt: skip


def scale(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    target: Annotated[int, typer.Argument(metavar="TARGET", min=0, help="Replicas wanted; bounds and limits still hold.")],
    for_: For,
    because: Annotated[str, typer.Option("--because", help="Why; kept with every decision it causes.")],
    author: Author = None, broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Override a model's target for a time. Done when it is durable; `hold --release` takes it back.

    It is kept until its time is over, whatever happens meanwhile: an order given under `mode: observe` is carried out
    when the site goes to `act`, and one for a model that leaves the policies holds again when it comes back.
    """
    body = _order(model, target, for_, because, author)
    with told_errors():
        taken = _client(broker, token, site, orders=True).post("v1", "overrides", body=body)
    if as_json:
        print_json(taken)
        return
    bounded = (
        "" if taken["target"] == target else f" (its target is {taken['target']} now; `tidegate explain` tells why)"
    )
    tell(f"{model}: set to {target} until {local_time(taken['until'], '%F %T')}{bounded}.")


def hold(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    for_: For = "1h",
    because: Annotated[str, typer.Option("--because", help="Why.")] = "held by an operator",
    release: Annotated[bool, typer.Option("--release", help="Take an override or hold back instead.")] = False,
    author: Author = None, broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Hold a model's present target for a time, or release it. As an order of `scale`, it is kept until its time is over."""
    body = _order(model, None, for_, because, author)
    with told_errors():
        client = _client(broker, token, site, orders=True)
        if release:
            taken = client.delete("v1", "overrides", model, author=_author(author))
        else:
            taken = client.post("v1", "overrides", body=body)
    if as_json:
        print_json(taken)
    elif release:
        tell(f"{model}: the policy decides again.")
    else:
        tell(f"{model}: held at {taken['target']} until {local_time(taken['until'], '%F %T')}.")


def _order(model: str, target: int | None, for_: str, because: str, author: str | None) -> dict[str, Any]:
    return {
        "model_id": model, "target": target, "for_s": duration_option("--for", for_), "because": because, "author": _author(author),
    }  # fmt: skip


Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="What: `all`, or `pool` or `model` with its NAME.", show_default=False)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The pool's or model's name.", show_default=False)]


def pause(
    scope: Scope = "", name: Name = "",
    because: Annotated[str, typer.Option("--because", help="Why.")] = "paused by an operator",
    author: Author = None, broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Freeze starts and stops of everything, one pool or one model. What serves keeps serving."""
    taken = _pause(scope, name, True, because, author, broker, token, site)
    _tell_pause(taken, as_json, "starts and stops are frozen; what serves keeps serving")


def resume(
    scope: Scope = "", name: Name = "",
    because: Annotated[str, typer.Option("--because", help="Why.")] = "resumed by an operator",
    author: Author = None, broker: Broker = None, token: Token = None, site: Site = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Take a pause back."""
    taken = _pause(scope, name, False, because, author, broker, token, site)
    _tell_pause(taken, as_json, "starts and stops go on")


def _pause(
    scope: str, name: str, paused: bool, because: str, author: str | None, broker: str | None, token: str | None,
    site: Path | None,
) -> Any:  # fmt: skip
    if scope not in ("all", "pool", "model") or (scope == "all") != (name == ""):
        verb = "pause" if paused else "resume"
        raise fail(f"say what: `tidegate {verb} all`, `{verb} pool NAME` or `{verb} model NAME`", Exit.USAGE)
    body = {"scope": scope, "name": name, "paused": paused, "because": because, "author": _author(author)}
    with told_errors():
        return _client(broker, token, site, orders=True).post("v1", "pauses", body=body)


def _tell_pause(taken: Any, as_json: bool, words: str) -> None:
    if as_json:
        print_json(taken)
    else:
        tell(f"{taken['scope']} {taken['name']}".strip() + f": {words}.")
