"""The broker's state as others follow it, from its topic: as workers and scrapers do."""

from __future__ import annotations

import structlog

from broker.log.codec import from_text
from broker.log.kafka.messages import Found, entity_key_from
from broker.log.kafka.reader import Reader
from broker.model.errors import LogError, WireError
from broker.model.state import BrokerState
from signals.ingest.mirror import StateMirror

logger = structlog.get_logger("broker")

FOLLOWED_EVERY_S = 0.2


class FollowedState:
    """What the mirror holds of the state, up to the last ``read``."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._mirror = StateMirror()
        self._read_to: int | None = None
        self._news: dict[str, float] = {}

    @property
    def state(self) -> BrokerState:
        return self._mirror.state

    @property
    def changed_at(self) -> dict[str, float]:
        """When each model was last told anew."""
        return self._mirror.changed_at

    async def read(self) -> dict[str, float]:
        """The models that look different by what was committed since the last time, and since when. Raises
        ``LogError``; what was read before it is told the next time."""
        async for found in self._reader.forwards("state", first=self._read_to):
            self._read_to = found.offset + 1
            self._news |= dict.fromkeys(self._told(found), found.at_ms / 1e3)
        news, self._news = self._news, {}
        return news

    def _told(self, found: Found) -> set[str]:
        if found.key is None or b"/" not in found.key:
            return set()
        try:
            data = None if found.value is None else found.decoded("entity", from_text)
            return self._mirror.apply(entity_key_from(found.key), data, found.at_ms / 1e3)
        except (WireError, LogError) as error:
            logger.error("state_not_understood", key=found.key, problem=str(error))
            return set()
