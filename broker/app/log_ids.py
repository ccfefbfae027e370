"""Whose jobs are whose: a log's id stands in the comments of the jobs that were begun by it."""

from __future__ import annotations

import secrets

from broker.model.state import BrokerState


def log_ids_of(state: BrokerState) -> tuple[str, ...]:
    """Of the logs that a broker with this state answers for, its own first, which is made up where it has none yet."""
    return state.control.log_ids or (secrets.token_hex(4),)
