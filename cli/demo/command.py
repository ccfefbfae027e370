"""``tidegate demo``: the main job, on this machine, in two minutes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from broker.model.errors import ConfigError, TraceError
from cli.output import console, told_errors
from traces.options import LARGEST_RATE_SCALE, ScaleMethod


def demo(
    trace: Annotated[Path | None, typer.Option("--trace", help="Replay this trace (BurstGPT, Azure, Mooncake or a request log; .gz).")] = None,
    span: Annotated[str | None, typer.Option("--window", help="Part of the trace, such as 10m..11m.")] = None,
    rate_scale: Annotated[float | None, typer.Option("--rate-scale", min=1e-6, max=LARGEST_RATE_SCALE, help="Times the trace's rate (default: fitted to the demo).", show_default=False)] = None,
    scale_method: Annotated[ScaleMethod, typer.Option("--scale-method", help="How a rate is raised.")] = ScaleMethod.SUPERPOSE,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed rows instead of stopping.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the load.")] = 1,
    headless: Annotated[bool, typer.Option("--headless", help="No live view.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON document.")] = False,
    slurm: Annotated[str | None, typer.Option("--slurm", metavar="PARTITION", help="Replicas as jobs of this partition of a Slurm whose nodes are this machine, succeeded before their wall time of two minutes (`make demo-slurm` starts one).")] = None,
    log: Annotated[str, typer.Option("--log", metavar="KIND", help="Where the broker keeps its log: file, or kafka=SERVERS, in topics of the demo's own, with a worker beside it (`make demo ARGS=\"--log kafka\"` starts a Kafka).")] = "file",
    keep: Annotated[Path | None, typer.Option("--keep", help="Keep logs, state and files in this folder.")] = None,
) -> None:  # fmt: skip
    """Serve one model under a load: start replicas, publish, drain and explain them. Non-zero if anything broke."""
    import asyncio

    from cli.demo.memory import memory_of
    from cli.demo.place import Processes, SlurmJobs
    from cli.demo.run import Demo, until_signal
    from cli.demo.scenario import from_trace, generated

    with told_errors():
        place = Processes() if slurm is None else SlurmJobs(slurm)
        memory = memory_of(log, kept=keep is not None)
        if trace is None:
            if span or rate_scale:
                raise TraceError("--window and --rate-scale need a --trace")
            scenario = generated(seed, place.load_s)
        else:
            scenario = from_trace(
                trace, span=span, rate_scale=rate_scale, method=scale_method, skip_bad=skip_bad, seed=seed
            )
        live = console.is_terminal and not (headless or as_json)
        with _folder(keep) as folder:
            status = asyncio.run(until_signal(Demo(scenario, place, memory, folder, live=live, as_json=as_json)))
    raise typer.Exit(int(status))


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists() and not keep.is_dir():
            raise ConfigError(f"{keep} is a file; --keep wants a new folder")
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise ConfigError(f"{keep} is not empty; --keep wants a new folder")
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
