"""The topic by which gateways tell of themselves, where the log is in Kafka. Who may write to it is Kafka's to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from broker.app.bodies import LONGEST_ID, GatewaySessionBody, validation_problems
from broker.app.gateway_sessions import DEAD_LETTERS_AT_ONCE, set_aside, take_session
from broker.app.runtime import Runtime
from broker.log.kafka.client import Connection
from broker.log.kafka.following import follow
from broker.log.kafka.retrying import retried
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.api import GatewaySession
from broker.model.errors import WireError
from broker.model.spec import JsonValue, Limits
from broker.model.window_state import DeadLetter

logger = structlog.get_logger("broker")

TOPIC = "gateway-sessions"


class GatewayTopic:
    """Takes the sessions that gateways write, as those that they PUT. One that has lain there for longer than a session
    lasts says nothing of its gateway any more."""

    def __init__(self, connection: Connection, layout: Layout, runtime: Runtime) -> None:
        self._connection = connection
        self._layout = layout
        self._topic = layout.name(TOPIC)
        self._runtime = runtime
        self._told_stale = False

    async def run(self) -> None:
        """For ever, from what comes after the start on."""
        await retried("gateway_sessions_not_read", self._follow)

    async def _follow(self) -> None:
        await follow(self._connection, self._layout, [TOPIC], self.take, self._runtime.clock.now())

    async def take(self, records: Sequence[Any]) -> None:
        """Messages of the topic, in order: aiokafka's ``ConsumerRecord``s."""
        bad: list[DeadLetter] = []
        for record in records:
            at = record.timestamp / 1e3
            try:
                gateway_id, body = _session(record.key, record.value)
            except WireError as error:
                bad.append(DeadLetter.of(self._topic, record.partition, record.offset, at, str(error), record.value))
                continue
            now = self._runtime.clock.now()
            if self._is_stale(gateway_id, now - at):
                continue
            await take_session(self._runtime, gateway_id, body, min(at, now))
        if bad:
            logger.warning(
                "bad_messages", topic=self._topic, count=len(bad), first_problem=bad[0].reason, offset=bad[0].offset
            )
            letters: list[JsonValue] = [wire.encode(letter) for letter in bad[:DEAD_LETTERS_AT_ONCE]]
            await set_aside(self._runtime, letters)

    def _is_stale(self, gateway_id: str, age_s: float) -> bool:
        """Told once each time that it begins: after a pause of ours it is as it should be, else a clock is wrong."""
        site = self._runtime.core.loop.state.control.site
        stale = age_s >= (site.limits if site else Limits()).gateway_session_s
        if stale and not self._told_stale:
            logger.warning(
                "gateway_session_stale", gateway_id=gateway_id, age_s=round(age_s, 1),
                action="if this goes on, set the clocks of Kafka's nodes right; `tidegate doctor kafka` shows them",
            )  # fmt: skip
        self._told_stale = stale
        return stale


def _session(key: bytes | None, value: bytes | None) -> tuple[str, GatewaySessionBody]:
    """Who tells what. Raises ``WireError``."""
    if value is None:
        raise WireError("it is empty")
    try:
        gateway_id = (key or b"").decode()
    except UnicodeDecodeError:
        raise WireError(f"{key!r} is no text", field="key") from None
    if not 0 < len(gateway_id) <= LONGEST_ID:
        raise WireError(f"a gateway's id has 1 to {LONGEST_ID} characters, not {len(gateway_id)}", field="key")
    told: GatewaySession = wire.loads(GatewaySession, value)
    try:
        return gateway_id, GatewaySessionBody.model_validate(wire.encode(told))
    except ValidationError as error:
        raise WireError("; ".join(validation_problems(error.errors()))) from None
