"""What gateways say of themselves, by whichever way it came: by HTTP, or by a topic of a log in Kafka."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import structlog

from broker.app.bodies import GatewaySessionBody
from broker.app.runtime import Runtime
from broker.model import wire
from broker.model.errors import LogError, WireError
from broker.model.observation import GatewayReport
from broker.model.signals import RequestSummary
from broker.model.spec import JsonValue
from broker.model.window_state import SHOWN_CHARACTERS

logger = structlog.get_logger("broker")

DEAD_LETTERS_AT_ONCE = 20
"""What sends garbage may send much of it."""


async def take_session(runtime: Runtime, gateway_id: str, body: GatewaySessionBody, received_at: float) -> None:
    """A gateway's report: to the core, with what it measured."""
    bad = [
        (raw, problem)
        for raw in body.summaries
        if (problem := _observe(runtime, raw, gateway_id, body.boot_id, received_at))
    ]
    if bad:
        logger.warning("summaries_refused", gateway_id=gateway_id, count=len(bad), first_problem=bad[0][1])
        letters: list[JsonValue] = [
            {
                "topic": "requests",
                "at": received_at,
                "gateway_id": gateway_id,
                "reason": problem,
                "message": json.dumps(raw)[:SHOWN_CHARACTERS],
            }
            for raw, problem in bad[:DEAD_LETTERS_AT_ONCE]
        ]
        await set_aside(runtime, letters)
    runtime.offer(
        GatewayReport(
            gateway_id, body.boot_id, body.sequence, body.applied_revision, body.observed_at, received_at,
            body.in_flight, body.closed,
        )
    )  # fmt: skip


async def set_aside(runtime: Runtime, letters: Sequence[JsonValue]) -> None:
    """To the dead letters."""
    try:
        await runtime.log.append("dead-letters", letters)
    except LogError as error:
        logger.warning("dead_letters_lost", count=len(letters), problem=str(error))


def _observe(runtime: Runtime, raw: Any, gateway_id: str, boot_id: str, now: float) -> str:
    """Take one summary; the problem with it, empty if there is none."""
    if not isinstance(raw, dict):
        return "this is not an object"
    try:
        stamped = raw | {"gateway_id": gateway_id, "boot_id": boot_id, "received_at": now}
        summary: RequestSummary = wire.decode(RequestSummary, stamped)
    except WireError as error:
        return str(error)
    problem = summary.implausible()
    if not problem:
        runtime.observe(summary)
    return problem
