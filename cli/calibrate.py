"""``tidegate calibrate``: an engine profile from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import told_errors


def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="What was measured, of one set-up: results of `vllm bench serve --save-result`, a request log with pages or a history of /metrics, or a table of set-ups; plain or .gz.")],
    name: Annotated[str, typer.Option("--name", help="The profile's name.")] = "calibrated",
    out: Annotated[Path | None, typer.Option("--out", help="Write the profile to this file, for `engine.profile` in the policies.", show_default=False)] = None,
    like: Annotated[str | None, typer.Option("--like", help="A profile, by name or file, for what the measurements do not tell.", show_default=False)] = None,
    hold: Annotated[list[str] | None, typer.Option("--hold", help="A coefficient to leave as it is, such as s_per_kv_token; may be repeated.", show_default=False)] = None,
    row: Annotated[list[str] | None, typer.Option("--row", help="A row of the table, by its exp_id; may be repeated.", show_default=False)] = None,
    until: Annotated[float | None, typer.Option("--until", help="Of a request log, only what arrived before this second.", show_default=False)] = None,
    cached_share: Annotated[float, typer.Option("--cached-share", min=0.0, max=1.0, help="Share of prompt tokens that came from the prefix cache, where the file does not tell.")] = 0.0,
    max_num_seqs: Annotated[int | None, typer.Option("--max-num-seqs", min=1, help="The engine's limit, where the files do not tell.", show_default=False)] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option("--max-num-batched-tokens", min=1, help="As above.", show_default=False)] = None,
    block_size: Annotated[int | None, typer.Option("--block-size", min=1, help="As above; tokens in a block of the KV cache.", show_default=False)] = None,
    num_blocks: Annotated[int | None, typer.Option("--num-blocks", min=1, help="As above; blocks of the KV cache.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:  # fmt: skip
    """Fit an engine profile to what was measured; print every residual, and what the measurements cannot tell."""
    from cli.calibrating import Wishes, run_calibration

    limits = {
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "block_size": block_size,
        "num_blocks": num_blocks,
    }
    given = {limit: value for limit, value in limits.items() if value is not None}
    wishes = Wishes(tuple(files), name, out, like, tuple(hold or ()), tuple(row or ()), until, cached_share, given)
    with told_errors():
        run_calibration(wishes, as_json=as_json)
