"""What a command may ask of a report. Imports nothing, so that declaring the command is cheap."""

from __future__ import annotations

from enum import StrEnum


class OracleChoice(StrEnum):
    """Whether a run is held against the oracle. AUTO: the bound always, the plan where its runs take no minutes."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"
