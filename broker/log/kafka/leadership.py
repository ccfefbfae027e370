"""Who leads a log in Kafka: the owner of the one partition of topic ``control``, in a consumer group of the brokers.

The group decides who may try. What deposes is the transactional producer that the owner opens then: Kafka refuses
whatever its predecessor still sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from broker.log.kafka.client import Connection, start, stop
from broker.log.kafka.topics import Layout

_TAKING_OVER = 2**62
"""The claim of who was just given the partition and has no epoch yet: above that of a leader who was away meanwhile."""
_FOR_EVER_MS = 2**40
"""A member that fetches nothing is taken for stuck after this long; ours never fetch."""


class OwnerKeeps(AbstractPartitionAssignor):  # type: ignore[misc]
    """Gives the partition to its owner, else to the first of the members: a broker that comes to stand by must not
    depose the one that leads. The state is each member's own, where aiokafka's assignors keep it by process."""

    name = "tidegate-owner-keeps"

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.claim = 0

    def metadata(self, topics: Iterable[str]) -> Any:
        return ConsumerProtocolMemberMetadata(0, sorted(topics), str(self.claim).encode())

    def assign(self, cluster: object, members: Mapping[str, Any]) -> dict[str, Any]:
        owner = min(members, key=lambda member: (-int(members[member].user_data or 0), member))
        return {
            member: ConsumerProtocolMemberAssignment(0, [(self._topic, [0])] if member == owner else [], b"")
            for member in members
        }

    def on_assignment(self, assignment: Any) -> None:
        if not assignment.partitions():
            self.claim = 0
        elif self.claim == 0:
            self.claim = _TAKING_OVER


class ControlGroup:
    """One broker's membership, from ``join`` to ``leave``. ``session_s``: silent for longer, it is taken for dead."""

    def __init__(self, connection: Connection, layout: Layout, session_s: float) -> None:
        topic = layout.name("control")
        self._connection = connection
        self._session_s = session_s
        self._assignor = OwnerKeeps(topic)
        self._consumer = connection.consumer(
            topic,
            group_id=layout.control_group,
            partition_assignment_strategy=(self._assignor,),
            session_timeout_ms=round(1e3 * session_s),
            heartbeat_interval_ms=round(1e3 * session_s / 6),
            max_poll_interval_ms=_FOR_EVER_MS,
        )

    async def join(self) -> None:
        """Returns once the group has said who owns the partition; a member that has just died delays it by a session.
        Raises ``LogError``."""
        await start(self._connection, self._consumer, timeout_s=2 * self._session_s + 10.0)

    async def leave(self) -> None:
        await stop(self._consumer)

    @property
    def owns(self) -> bool:
        """Whether this broker may lead. While the group reassigns, what held before."""
        return self._assignor.claim > 0

    def leads_since(self, epoch: int) -> None:
        """This broker leads: its claim in the group is as good as its epoch."""
        self._assignor.claim = epoch
