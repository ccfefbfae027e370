"""What a Kafka cluster says of itself and of a site's topics, and how they are made and changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.metadata import MetadataRequest

from broker.log.kafka.checkup import ClusterFacts, TopicFacts, WantedTopic, differing
from broker.log.kafka.client import Connection, started, translate, translated
from broker.model.errors import LogError

SEEN_WITHIN_S = 10.0
"""A topic that was made is known to every server a moment later."""
_ASKED_EVERY_S = 0.1
_NOT_YET = (
    kafka_errors.GroupCoordinatorNotAvailableError,
    kafka_errors.GroupLoadInProgressError,
    kafka_errors.NotCoordinatorForGroupError,
)
"""A cluster that never had a group makes what groups need when it is first asked for one."""
_SHARING = ("PreparingRebalance", "CompletingRebalance")
_OF_THE_TOPIC = 1
"""Where a setting comes from: of the topic itself, not a default."""

Shares = Mapping[str, bytes]
"""By member of a group, which partitions it has, as its protocol writes them."""


class KafkaAdmin:
    """``async with opened(connection) as admin``. Methods raise ``LogError``."""

    def __init__(self, connection: Connection, client: _Client) -> None:
        self._connection = connection
        self._client = client

    async def requests(self) -> list[int]:
        """The numbers of the requests that a server knows."""
        with translated(self._connection):
            return [number for number, _, _ in (await self._client.asked(ApiVersionRequest())).api_versions]

    async def facts(self, names: Sequence[str]) -> ClusterFacts:
        """Of the cluster, and of those topics."""
        with translated(self._connection):
            # Where the servers make any topic that is asked for, this must not be how ours are made.
            told = (await self._client.asked(MetadataRequest(list(names), allow_auto_topic_creation=False))).to_object()
            partitions, denied = _known(told["topics"])
            entries = await self._entries([*partitions])
        settings = {
            name: {entry["config_names"]: entry["config_value"] for entry in found} for name, found in entries.items()
        }
        topics = {name: _topic_facts(partitions[name], settings[name]) for name in settings}
        denied |= partitions.keys() - topics.keys()
        return ClusterFacts(told["cluster_id"], len(told["brokers"]), topics, frozenset(denied))

    async def create(self, topics: Sequence[WantedTopic], *, dry_run: bool) -> dict[str, LogError]:
        """What was not made, and why; the rest is known to the cluster when this returns. One that is there by now is
        no error. With ``dry_run`` the servers only say whether they would."""
        if not topics:
            return {}
        asked = [NewTopic(topic.name, topic.partitions, topic.copies, None, dict(topic.settings)) for topic in topics]
        with translated(self._connection):
            answer = await self._client.create_topics(asked, validate_only=dry_run)
        refused = self._refused(answer.topic_errors, kafka_errors.TopicAlreadyExistsError)
        if not dry_run:
            await self._seen({topic.name for topic in topics} - refused.keys())
        return refused

    async def alter(self, topic: WantedTopic, found: TopicFacts) -> None:
        """Give it the settings that it should have, and leave its others."""
        with translated(self._connection):
            entries = await self._entries([topic.name])
            if topic.name not in entries:
                raise kafka_errors.TopicAuthorizationFailedError(topic.name)
            # What is not named here goes back to its default.
            own = {
                entry["config_names"]: entry["config_value"]
                for entry in entries[topic.name]
                if entry["config_source"] == _OF_THE_TOPIC
            }
            resource = ConfigResource(ConfigResourceType.TOPIC, topic.name, own | differing(topic, found))
            (answer,) = await self._client.alter_configs([resource])
        refused = self._refused((name, code, words) for code, words, _, name in answer.resources)
        if topic.name in refused:
            raise refused[topic.name]

    async def _entries(self, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """All settings of each topic, but of those whose settings the user may not know."""
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        (answer,) = await self._client.describe_configs(resources)
        found = {}
        for topic in answer.to_object()["resources"]:
            error = kafka_errors.for_code(topic["error_code"])
            if error is kafka_errors.NoError:
                found[topic["resource_name"]] = topic["config_entries"]
            elif error is not kafka_errors.TopicAuthorizationFailedError:
                raise error(f"{topic['resource_name']}: {topic['error_message']}")
        return found

    def _refused(
        self, answers: Iterable[tuple[str, int, str]], *fine: type[kafka_errors.KafkaError]
    ) -> dict[str, LogError]:
        errors = {name: kafka_errors.for_code(code)(f"{name}: {words}") for name, code, words in answers if code}
        return {
            name: translate(self._connection, error) for name, error in errors.items() if not isinstance(error, fine)
        }

    async def _seen(self, names: set[str]) -> None:
        with translated(self._connection):
            async with asyncio.timeout(SEEN_WITHIN_S):
                while names:
                    await asyncio.sleep(_ASKED_EVERY_S)
                    facts = await self.facts(sorted(names))
                    names -= facts.topics.keys() | facts.denied

    async def members(self, group: str) -> list[str]:
        """Who is in a consumer group, as ``CLIENT on HOST``."""
        _, members = await self._described(group)
        return [f"{client_id} on {host.lstrip('/')}" for _, client_id, host, *_ in members]

    async def shares(self, group: str) -> Shares | None:
        """What each member of a consumer group has; None while they share it anew."""
        state, members = await self._described(group)
        if state in _SHARING:
            return None
        return {member_id: assigned for member_id, _, _, _, assigned in members}

    async def read_to(self, group: str) -> dict[tuple[str, int], int]:
        """How far a group has read each topic and partition, as far as it has said so."""
        with translated(self._connection):
            offsets = await self._client.list_consumer_group_offsets(group)
        return {(at.topic, at.partition): int(found.offset) for at, found in offsets.items()}

    async def _described(self, group: str) -> tuple[str, Sequence[Any]]:
        """A group's state, and its members as Kafka describes them."""
        with translated(self._connection):
            async with asyncio.timeout(SEEN_WITHIN_S):
                while True:
                    try:
                        (answer,) = await self._client.describe_consumer_groups([group])
                        ((code, _, state, *_, members),) = answer.groups
                        if not code:
                            return state, members
                        raise kafka_errors.for_code(code)(group)
                    except _NOT_YET:
                        await asyncio.sleep(_ASKED_EVERY_S)


class _Client(AIOKafkaAdminClient):  # type: ignore[misc]
    """It has no method of its own for some requests, and asks a server at random, which may be one that has died."""

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        if node_id is None:
            node_id = await self._living()
        return await super()._send_request(request, node_id)

    asked = _send_request

    async def _living(self) -> int | None:
        """None if no server takes connections: what is asked then fails with the reason."""
        for server in self._client.cluster.brokers():
            if await self._client.ready(server.nodeId):
                return int(server.nodeId)
        return None


@asynccontextmanager
async def opened(connection: Connection) -> AsyncIterator[KafkaAdmin]:
    """Raises ``LogError`` if the cluster cannot be reached."""
    async with started(connection, _Client(**connection.arguments())) as client:
        yield KafkaAdmin(connection, client)


def _known(topics: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], set[str]]:
    """The partitions of those that exist, and which we may not know of. Raises the error of another that was asked for
    in vain."""
    partitions, denied = {}, set()
    for topic in topics:
        match kafka_errors.for_code(topic["error_code"]):
            case kafka_errors.NoError:
                partitions[topic["topic"]] = topic["partitions"]
            case kafka_errors.TopicAuthorizationFailedError:
                denied.add(topic["topic"])
            case kafka_errors.UnknownTopicOrPartitionError:
                pass
            case error:
                raise error(topic["topic"])
    return partitions, denied


def _topic_facts(partitions: Sequence[Mapping[str, Any]], settings: Mapping[str, str]) -> TopicFacts:
    return TopicFacts(
        partitions=len(partitions),
        copies=min(len(one["replicas"]) for one in partitions),
        unled=sum(one["leader"] < 0 for one in partitions),
        behind=sum(len(one["isr"]) < len(one["replicas"]) for one in partitions),
        settings=settings,
    )
