"""Sweeps so small that a test can run them: requests for some seconds, a second of computing."""

from __future__ import annotations

import textwrap
from pathlib import Path

POLICIES = """
    models:
      chat:
        engine: {command: [serve]}
        max: 3
        policy:
          kind: threshold
          rules:
            - {name: queue, signal: queue_age_s, above: 2s, for: 5s, change: +1}
            - {name: calm, signal: requests_per_replica, below: 3, for: 20s, projected: true, change: -1}
"""

SWEEP = """
    policies:
      rules:
        file: policies.yaml
        grid: {'models.chat.policy.rules[queue].above': [1s, 4s]}
        knob: models.chat.policy.rules[queue].above
    tune:
      calm: {source: {kind: generated, profile: burstgpt1_conv, rate: 2}, duration: 20s}
    report:
      busy: {source: {kind: generated, profile: burstgpt1_conv, rate: 4}, duration: 20s}
    seeds: [1, 2]
    tail: 0s
    goal: {attainment: 0.5, worst_hour: 0.5}
"""

CELLS = 8

ONE_CELL = """
    policies: {rules: {file: policies.yaml}}
    traces:
      calm: {source: {kind: generated, profile: burstgpt1_conv, rate: 2}, duration: 20s}
    tail: 0s
"""


def with_profile(profile: str) -> str:
    """The policies with another engine."""
    return POLICIES.replace("{command: [serve]}", f"{{command: [serve], profile: {profile}}}")


def small_sweep(folder: Path, text: str = SWEEP, policies: str = POLICIES) -> Path:
    """Its file, with the policies beside it."""
    (folder / "policies.yaml").write_text(textwrap.dedent(policies).lstrip("\n"), encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return path
