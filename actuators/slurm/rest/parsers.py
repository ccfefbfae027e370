"""The parsers that we speak, and the choice among them. Pure.

A release of slurmrestd speaks three or four (22.05: v0.0.36 to 38; 24.11: 40 to 42; 26.05: 42 to 45). v0.0.39 is
left out: every release that has it has v0.0.38 or v0.0.40 too.
"""

from __future__ import annotations

from collections.abc import Mapping

from actuators.slurm.rest.family import Family
from actuators.slurm.rest.v38 import V38
from actuators.slurm.rest.v40 import V40
from broker.model.errors import ActionRejected, shown

PARSERS: Mapping[str, Family] = {
    **{f"v0.0.{version}": V40(version) for version in range(45, 39, -1)},
    "v0.0.38": V38(),
}
"""Newest first."""


def family_of(parser: str) -> Family:
    """Raises ``ActionRejected`` for a parser that is not ours."""
    try:
        return PARSERS[parser]
    except KeyError:
        raise ActionRejected(
            f"the parser {shown(parser)} is none of those that Tidegate speaks: {', '.join(PARSERS)}; name one of "
            "them, or none to have it chosen"
        ) from None
