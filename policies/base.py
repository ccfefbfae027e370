"""The contract of every policy.

A policy is a value built from its parameters. ``recommend`` is pure: the same snapshot and memory give the same
answer, whatever the time or machine. It sees readings with their freshness and must say so when it cannot judge
(``Recommendation(hold=True)``); the core turns a hold into "keep the present target".

Policies need not care for minimum and maximum, pools, rates, hysteresis, or supply on its way: the core does, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from broker.model.plan import Recommendation
from broker.model.snapshot import FleetSnapshot, WindowNeed
from broker.model.spec import PolicySpec
from broker.model.state import Memory


class Policy(Protocol):
    """Says how many replicas one model should have, and why."""

    @property
    def kind(self) -> str:
        """The name by which ``policies.yaml`` chooses it."""
        ...

    def needs(self) -> tuple[WindowNeed, ...]:
        """The windows that the snapshot must carry for it."""
        ...

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        """Pure. ``memory`` is what the last call returned (empty at first); it must stay bounded."""
        ...


PolicyFactory = Callable[[PolicySpec], Policy]
"""Builds a policy from its declaration; raises ``ConfigError`` with the field that is wrong."""
