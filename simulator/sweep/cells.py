"""The cells of a sweep: one run each, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.sweep.design import Settings
from simulator.sweep.figures import RunFigures

RESULT_VERSION = 2
"""Of what a cell leaves. Results of another version are not taken up again."""


CACHED_SHARE = "run.cached_share"

WORLD = frozenset({CACHED_SHARE, "run.metric_loss", "run.metric_delay"})
"""Paths of settings that say what a run finds, and not what it does about it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One policy with one choice of its values. ``knob`` is the path that makes it more or less cautious, if one is
    named."""

    policy: str
    settings: Settings = ()
    knob: str | None = None

    @property
    def family(self) -> tuple[str, Settings]:
        """What is left without the knob: candidates of one family are points of one curve."""
        return self.policy, tuple(setting for setting in self.settings if setting.path != self.knob)

    @property
    def world(self) -> Settings:
        """Of its settings those that no operator chooses. What it costs is told beside others of the same only."""
        return tuple(setting for setting in self.settings if setting.path in WORLD)

    @property
    def words(self) -> str:
        """``rules above=5s max=4``: as tables name it."""
        return " ".join([self.policy, settings_words(self.settings)]).strip()


@dataclass(frozen=True, slots=True)
class Cell:
    """``key`` is a digest of all that determines the run."""

    key: str
    candidate: Candidate
    demand: str
    seed: int


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a cell leaves on the disk."""

    cell: Cell
    figures: RunFigures


@dataclass(frozen=True, slots=True)
class CellFailure:
    cell: Cell
    cause: str


def settings_words(settings: Settings) -> str:
    """``rules[queue].above=5s max=4``: paths without the steps that all of them share."""
    paths = [setting.path.split(".") for setting in settings]
    shared = 0
    least = 2 if len(paths) == 1 else 1
    while paths and all(len(path) > shared + least and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return " ".join(f"{'.'.join(path[shared:])}={s.value}" for path, s in zip(paths, settings, strict=True))


def cell_key(determines: Mapping[str, Any]) -> str:
    """``determines`` is plain JSON data: files by their digests, everything else by its value."""
    text = json.dumps({"version": RESULT_VERSION, **determines}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
