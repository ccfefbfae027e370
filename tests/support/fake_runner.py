"""A ``Runner`` without processes: it answers by the command's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actuators.slurm.runner import Finished


@dataclass
class FakeRunner:
    """``answers`` by command; an exception is raised. ``ran`` is what was asked for, with its input."""

    answers: dict[str, Finished | Exception] = field(default_factory=dict)
    ran: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    where: str = "Slurm's commands on login1"

    async def run(self, arguments: Sequence[str], given: str = "", *, timeout_s: float) -> Finished:
        self.ran.append((tuple(arguments), given))
        answer = self.answers[arguments[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Nothing is held."""
