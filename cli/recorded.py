"""What the broker's log says, for commands that need no broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.model.state import BrokerState


def recorded_state(log: Path) -> BrokerState:
    """As of the last step, also while a broker runs; an empty one where there is no log. Raises ``LogError``."""
    import asyncio

    from broker.log.sqlite import SqliteLog
    from broker.model.state import BrokerState

    return asyncio.run(SqliteLog(log).load()).state if log.exists() else BrokerState()
