"""``tidegate init``: a new site with its own secrets, ready for ``tidegate run``."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Exit, fail, print_json, tell, told_errors


class Engine(StrEnum):
    EMULATOR = "emulator"
    VLLM = "vllm"


_DEFAULT_MODEL = {Engine.EMULATOR: "chat", Engine.VLLM: "Qwen/Qwen2.5-0.5B-Instruct"}
_DEFAULT_GPUS = {Engine.EMULATOR: 8, Engine.VLLM: 1}
_SECRETS = ("site", "read", "operate", "gateway")

_SITE = """\
# Made by `tidegate init`. docs/configuration.md explains every field; `tidegate policy lint site.yaml policies.yaml`
# checks both files.

cluster: {cluster}              # part of the name of everything that is started here
mode: act                       # observe: compute, record and explain, but touch nothing

pools:
  local:
    kind: local
    gpus: {gpus}                     # what replicas may hold together
    state_dir: var/replicas
    log_dir: var/log

log:
  kind: sqlite
  path: var/tidegate.sqlite
  retention: 30d

api:
  host: 127.0.0.1
  port: {port}
  read_token_file: secrets/read
  operate_token_file: secrets/operate
  gateway_token_file: secrets/gateway

outputs:
  endpoints_file: var/endpoints.json

secret_file: secrets/site       # the replicas' keys derive from it
"""

_POLICIES = """\
# Made by `tidegate init`. A running broker reads this file again when it changes. docs/policies.md tells all policies.

models:
  {model_id}:
    engine:
      command: {command}
    gpus: 1
    min: 1
    max: {maximum}
    load_timeout: {load_timeout}           # from the start to the first answer
    drain_limit: 20m            # longer than the longest answer that must not be cut
"""

_POLICY = """\
    policy:
      kind: threshold
      rules:
        # Someone has waited for more than two seconds, for ten seconds on end: one replica more.
        - {name: queue, signal: queue_age_s, above: 2s, for: 10s, change: +1}
        # One replica less, if those that remain would still have fewer than eight requests each.
        - {name: calm, signal: requests_per_replica, below: 8, for: 5m, projected: true, change: -1}
"""

_NOTHING_TO_DECIDE = "    # With room for one replica there is nothing to decide. With a larger max take the # away:\n"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make the site.", show_default="this folder")] = Path("."),
    engine: Annotated[Engine, typer.Option("--engine", help="What serves: the emulator needs no GPU.")] = Engine.EMULATOR,
    model: Annotated[str | None, typer.Option("--model", help="The emulator's model name, or what vLLM loads (default: chat, Qwen/Qwen2.5-0.5B-Instruct).", show_default=False)] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs that replicas may hold together (default: 8 pretended ones, or 1).", show_default=False)] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The broker's port.")] = 8600,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Make a site: site.yaml, policies.yaml, and fresh secrets that only you may read. Overwrites nothing."""
    loaded = model or _DEFAULT_MODEL[engine]
    model_id = _model_id(loaded, engine)
    room = gpus or _DEFAULT_GPUS[engine]
    files = {
        "site.yaml": _SITE.format(cluster=_cluster(folder), gpus=room, port=port),
        "policies.yaml": _policies(engine, loaded, model_id, room),
        "secrets/.gitignore": "*\n",
        **{f"secrets/{name}": secrets.token_hex(32) + "\n" for name in _SECRETS},
    }
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise fail(f"{', '.join(there)} in {folder} would be overwritten; name another folder", Exit.USAGE)
    with told_errors():
        (folder / "secrets").mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "var").mkdir(exist_ok=True)
        for name, text in files.items():
            _write(folder / name, text, private=name.startswith("secrets/"))
    if as_json:
        print_json({"folder": str(folder.resolve()), "files": list(files), "model_id": model_id})
        return
    _tell_next(folder, model_id)


def _policies(engine: Engine, loaded: str, model_id: str, room: int) -> str:
    if engine is Engine.EMULATOR:
        command = ["{python}", "-m", "simulator.emulator", "--model", "{model}", "--host", "{host}", "--port", "{port}"]
        return _declared(model_id, command, min(4, room), "5m ")
    command = ["vllm", "serve", loaded, "--served-model-name={model}", "--host={host}", "--port={port}"]
    return _declared(model_id, command, room, "15m")


def _declared(model_id: str, command: list[str], maximum: int, load_timeout: str) -> str:
    text = _POLICIES.format(
        model_id=model_id, command=json.dumps(command), maximum=maximum, load_timeout=load_timeout
    )  # fmt: skip
    if maximum > 1:
        return text + _POLICY
    return text + _NOTHING_TO_DECIDE + "".join(f"    # {line[4:]}" for line in _POLICY.splitlines(keepends=True))


def _model_id(loaded: str, engine: Engine) -> str:
    """What users ask for: the emulator's name itself; of what vLLM loads the last part, as a name may be written."""
    from broker.app.settings.fields import NAME

    name = loaded if engine is Engine.EMULATOR else _as_name(Path(loaded).name)
    if not NAME.fullmatch(name) or "{" in loaded or "}" in loaded:
        raise fail(f"--model: {loaded!r} gives no name; use small letters, digits, - and .", Exit.USAGE)
    return name


def _cluster(folder: Path) -> str:
    """Told by its folder, and random enough that two sites on a machine never take each other's processes."""
    return f"{_as_name(folder.resolve().name)[:40].rstrip('.-') or 'site'}-{secrets.token_hex(2)}"


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip(".-")[:48].rstrip(".-")


def _write(path: Path, text: str, *, private: bool) -> None:
    """A new file; never over another, whoever made it meanwhile."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)


def _tell_next(folder: Path, model_id: str) -> None:
    question = json.dumps({"model": model_id, "messages": [{"role": "user", "content": "Hello"}]})
    tell(f"Made a site in {folder.resolve()}: site.yaml, policies.yaml, secrets/ (only you may read them).")
    tell("")
    if folder.resolve() != Path.cwd():
        tell(f"  cd {folder}")
    tidegate = _command()
    tell(f"  {tidegate} run                # the broker; starts and watches the replicas")
    tell(f"  {tidegate} gateway            # in a second terminal: the OpenAI-compatible gateway")
    tell("  curl http://127.0.0.1:8700/v1/chat/completions \\")
    tell(f"       -H 'Content-Type: application/json' -d '{question}'")
    tell(f"  {tidegate} explain {model_id}       # why it runs as many replicas as it does")


def _command() -> str:
    """How to call us from another folder: `make` puts nothing on the PATH."""
    if shutil.which("tidegate"):
        return "tidegate"
    script = Path(sys.executable).with_name("tidegate")
    return shlex.quote(str(script)) if script.exists() else f"{shlex.quote(sys.executable)} -m cli"
