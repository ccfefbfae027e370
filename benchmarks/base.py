"""What every benchmark returns, and how a target is met."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure against its target. ``higher_is_better`` says which side meets it; ``details`` travel along."""

    name: str
    value: float
    unit: str
    target: float
    higher_is_better: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.higher_is_better else self.value <= self.target

    def line(self) -> str:
        return json.dumps(
            {"name": self.name, "value": self.value, "unit": self.unit, "target": self.target, "met": self.met}
            | self.details
        )


Benchmark = Callable[[], list[Measurement]]
"""A benchmark module ``benchmarks/bench_NAME.py`` has ``run() -> list[Measurement]``; its docstring's first line
is shown by ``--list``."""
