"""What the emulator can be told on its command line; names are vLLM's where vLLM has the option."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.model.errors import ConfigError
from broker.model.units import parse_duration_s
from simulator.engine.profile import EngineProfile
from simulator.profiles.document import load_profile, names


@dataclass(frozen=True, slots=True)
class Faults:
    """Ways in which a replica can be bad, for tests of whoever watches it.

    ``wrong_model``: serves another model's name. ``wrong_key``: accepts no key that anyone has. ``never_loads``: the
    listener never opens. ``garbage_metrics``, ``giant_metrics``: ``/metrics`` answers bytes that are no metrics, or
    64 MiB of them. ``freeze``: no token comes out and the gauges stand still, while ``/health`` answers 200.
    ``crash_after_s``: the process is gone that long after it began to listen, with exit code 0 as vLLM's API server
    has when its engine is killed.
    """

    wrong_model: bool = False
    wrong_key: bool = False
    never_loads: bool = False
    garbage_metrics: bool = False
    giant_metrics: bool = False
    freeze: bool = False
    crash_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    model: str
    host: str
    port: int
    profile: EngineProfile
    max_model_len: int
    shutdown_timeout_s: float
    seed: int
    natural_length: int
    api_keys: tuple[str, ...]
    faults: Faults
    uds: str | None = None

    @property
    def served_model(self) -> str:
        return f"not-{self.model}" if self.faults.wrong_model else self.model


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> EmulatorOptions:
    """Raises ``ConfigError``; unknown options end the process with argparse's usage message."""
    given = _parser().parse_args(arguments)
    profile = _profile(given)
    max_model_len = given.max_model_len or min(32768, profile.kv_capacity_tokens)
    if max_model_len > profile.kv_capacity_tokens:
        raise ConfigError(
            f"--max-model-len {max_model_len} is more than the KV cache of profile {profile.name} holds "
            f"({profile.kv_capacity_tokens} tokens); lower it or raise --num-gpu-blocks-override"
        )
    environment_key = environment.get("VLLM_API_KEY")
    return EmulatorOptions(
        model=given.served_model_name or given.model,
        host=given.host,
        port=given.port,
        profile=profile,
        max_model_len=max_model_len,
        shutdown_timeout_s=given.shutdown_timeout,
        seed=given.seed,
        natural_length=given.natural_length,
        api_keys=tuple(given.api_key or ([environment_key] if environment_key else [])),
        faults=parse_faults(given.fault),
        uds=given.uds,
    )


def parse_faults(names: Sequence[str]) -> Faults:
    """``["freeze", "crash-after=5s"]`` as ``Faults``; raises ``ConfigError`` that lists those there are."""
    flags = {field.name for field in dataclasses.fields(Faults) if field.name != "crash_after_s"}
    chosen = {}
    crash_after_s = None
    for text in names:
        name, _, value = text.partition("=")
        if name == "crash-after" and value:
            crash_after_s = _duration("--fault crash-after", value)
        elif text.replace("-", "_") in flags:
            chosen[text.replace("-", "_")] = True
        else:
            known = ", ".join(sorted(flag.replace("_", "-") for flag in flags))
            raise ConfigError(f"no fault {text!r}; there are {known}, crash-after=SECONDS")
    return Faults(**chosen, crash_after_s=crash_after_s)


def _profile(given: argparse.Namespace) -> EngineProfile:
    overrides = {
        "max_num_seqs": given.max_num_seqs,
        "max_num_batched_tokens": given.max_num_batched_tokens,
        "block_size": given.block_size,
        "num_blocks": given.num_gpu_blocks_override,
        "load_time_s": None if given.load_time is None else _duration("--load-time", given.load_time),
    }
    try:
        return dataclasses.replace(
            load_profile(given.profile).engine,
            **{name: value for name, value in overrides.items() if value is not None},
        )
    except ValueError as error:
        raise ConfigError(f"profile {given.profile} with these options: {error}") from None


def _duration(option: str, text: str) -> float:
    try:
        return parse_duration_s(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator.emulator",
        description="A server with vLLM's API over a model of its engine: no GPU, no weights, tokens at a true pace.",
    )
    parser.add_argument("--model", required=True, help="the name it serves")
    parser.add_argument("--served-model-name", help="another name to serve, instead of --model's")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 lets the system choose; the choice is logged")
    parser.add_argument("--uds", help="path of a socket to listen on, instead of --host and --port")
    parser.add_argument("--profile", default="demo", help=f"engine: {', '.join(names())}, or a file (default: demo)")
    parser.add_argument("--load-time", help="cold start until the listener opens, such as 2s (default: the profile's)")
    parser.add_argument(
        "--shutdown-timeout", type=float, default=0.0, help="seconds to finish requests after SIGTERM (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the words of the answers")
    parser.add_argument(
        "--natural-length", type=int, default=128, help="tokens after which an answer ends by itself (default: 128)"
    )
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and answer together")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--num-gpu-blocks-override", type=int)
    parser.add_argument("--api-key", action="append", help="may be repeated; otherwise the environment's VLLM_API_KEY")
    parser.add_argument("--fault", action="append", default=[], help="for tests; see simulator/emulator/options.py")
    return parser
