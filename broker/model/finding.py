"""What a look at a site found: the words of ``tidegate doctor`` and of ``tidegate topics check``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SKEW_WORTH_TELLING_S = 2.0
SKEW_THAT_HARMS_S = 30.0
"""A job's end is Slurm's time, a drain's deadline the broker's: the margin between both is some two minutes."""


class Verdict(StrEnum):
    """From best to worst."""

    FINE = "fine"
    LOOK = "look"
    MEND = "mend"


@dataclass(frozen=True, slots=True)
class Finding:
    """``about`` is what was looked at, ``words`` what was found and, unless it is fine, what to change."""

    verdict: Verdict
    about: str
    words: str

    def document(self) -> dict[str, str]:
        """As ``--json`` shows it."""
        return {"verdict": self.verdict.value, "about": self.about, "words": self.words}


def clock_finding(about: str, whose: str, skew_s: float) -> Finding:
    """``skew_s`` is how far that clock is ahead of ours."""
    if abs(skew_s) < SKEW_WORTH_TELLING_S:
        return Finding(Verdict.FINE, about, f"{abs(skew_s):.1f} s apart")
    verdict = Verdict.MEND if abs(skew_s) >= SKEW_THAT_HARMS_S else Verdict.LOOK
    ahead = "ahead of" if skew_s > 0 else "behind"
    return Finding(verdict, about, f"{whose} is {abs(skew_s):.0f} s {ahead} ours; let both keep time (NTP)")
