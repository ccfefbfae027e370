"""The JSON of runs that somebody hands in."""

from __future__ import annotations

import json
from pathlib import Path

from broker.model import wire
from broker.model.errors import ConfigError, WireError
from simulator.report.summary import RunSummary

_LARGEST_SUMMARY_BYTES = 256 << 20


def read_summary(path: Path) -> RunSummary:
    """A run's JSON. Raises ``ConfigError`` for a file that is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_SUMMARY_BYTES + 1)
        if len(content) > _LARGEST_SUMMARY_BYTES:
            raise ValueError("it is larger than 256 MiB")
        summary: RunSummary = wire.decode(RunSummary, json.loads(content.decode()))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, RecursionError, WireError) as error:
        raise ConfigError(f"is not what `demo --json` or `simulate --json` prints: {error}", path=str(path)) from None
    return summary
