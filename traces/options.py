"""What a person chooses by a word. Needs no numpy: the command line reads it before it knows what is to be done."""

from __future__ import annotations

from enum import StrEnum

LARGEST_RATE_SCALE = 100_000.0
"""A slip of the keyboard must not ask for more requests than any machine can hold."""


class RequestKind(StrEnum):
    """Who sent it, where the trace says so. Only conversations follow the day; programs burst at any hour."""

    CONVERSATION = "conversation"
    API = "api"


class ScaleMethod(StrEnum):
    """How a rate is raised.

    CORRELATED: each user becomes ``factor`` users who do the same at the same time; rate peaks and bursts grow with
    the factor. SUPERPOSE: independent copies of the whole trace, shifted in time, added up; bursts even out. What a
    larger user base would really do lies between the two, so results are stated for both.
    """

    CORRELATED = "correlated"
    SUPERPOSE = "superpose"
