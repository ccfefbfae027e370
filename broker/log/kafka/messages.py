"""What a step, a lease or a record is as messages of Kafka, and back.

Every message says in its headers what it is (``schema``), the step and the epoch it was written in. One that is larger
than a topic takes travels as numbered parts (``part``: ``2/5``), which lie one behind the other in one transaction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from broker.log.codec import StepText, from_text, state_to_text, to_text, whole_step_text
from broker.log.kafka.topics import KEPT_BY_LEADER
from broker.model import wire
from broker.model.errors import LogDamaged, SchemaTooNew, WireError
from broker.model.ports import Checkpoint, StepRecord
from broker.model.replica import ReplicaPhase
from broker.model.spec import JsonValue
from broker.model.state import EntityKey

T = TypeVar("T")

VERSIONS: Final[Mapping[str, int]] = {
    "step": 1, "checkpoint": 1, "entity": 1, "decision": 1, "endpoint": 1, "lease": 1, "marker": 1, "record": 1,
}  # fmt: skip
"""The newest version of each schema that this Tidegate reads, which is the one that it writes."""

LEASE_KEY = b"lease"
"""In the topics ``lease`` and ``state``. Entities' keys have a slash."""
MARKER_KEY = b"marker"

_ROOM_FOR_HEADERS = 4096
_STEP = re.compile(r"[0-9]{1,18}")
_PART = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Lease:
    """Written in every transaction. ``step`` is the last one, of time ``now``; ``transaction`` counts those of the
    term, so that a lease which was renewed is seen to be another. ``released``: its holder has ended and acts no more.
    ``importing``: what lies in the topics is a part of another log, whose import has not ended. ``depositions`` counts
    the leaders so far that another followed before they had let their lease go.
    """

    epoch: int = 0
    holder: str = ""
    step: int = 0
    now: float = 0.0
    transaction: int = 0
    released: bool = False
    importing: bool = False
    depositions: int = 0

    def __str__(self) -> str:
        return f"{self.holder or 'nobody'} (epoch {self.epoch}, step {self.step})"


NOBODY = Lease()
"""The lease of a new log."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of ``topic`` (without the site's prefix). ``key`` and ``text`` are never both None; ``text`` None is
    a tombstone. ``partition`` None: by the key."""

    topic: str
    text: str | None
    key: bytes | None = None
    headers: Mapping[str, object] = field(default_factory=dict)
    at: float = 0.0
    partition: int | None = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A message as it was read, whole. ``offset`` is that of its first part, ``at_ms`` Kafka's timestamp."""

    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str]
    offset: int
    at_ms: int

    @property
    def step(self) -> int | None:
        """The step that it was written in or after, None for what others wrote."""
        step = self.headers.get("step", "")
        return int(step) if _STEP.fullmatch(step) else None

    @property
    def ours(self) -> bool:
        """Whether a broker wrote it, as far as it says itself."""
        return self.headers.get("schema", "").startswith("tidegate.")

    @property
    def marks(self) -> bool:
        """Whether it says nothing but where it lies. Its key alone would not tell: a model may have that name."""
        return self.headers.get("schema", "").startswith("tidegate.marker/")

    def decoded(self, schema: str, decode: Callable[[str], T]) -> T:
        """Raises ``SchemaTooNew`` and ``LogDamaged`` unless it is a whole one of ``schema``, in a known version."""
        try:
            return decode(self._text(schema))
        except (WireError, UnicodeError) as error:
            raise LogDamaged(f"the {schema} at offset {self.offset} cannot be read: {error}") from None

    def _text(self, schema: str) -> str:
        name, _, version = self.headers.get("schema", "").partition("/")
        if name != f"tidegate.{schema}" or not version.isdecimal() or self.value is None:
            raise LogDamaged(f"the message at offset {self.offset} is a {name or 'foreign one'}, not a {schema}")
        if int(version) > VERSIONS[schema]:
            raise SchemaTooNew(
                f"the {schema} at offset {self.offset} has version {version}, this Tidegate knows up to "
                f"{VERSIONS[schema]}: upgrade Tidegate"
            )
        return self.value.decode()


def step_messages(record: StepRecord, text: StepText, arrivals: Mapping[EntityKey, int]) -> Iterator[Message]:
    """One step. ``arrivals``: the place of each changed entity in the order in which they came."""
    yield from history_messages(record, text)
    yield from outcome_messages(record, text, arrivals)


def history_messages(record: StepRecord, text: StepText) -> Iterator[Message]:
    """What is kept of each step."""
    headers = {"step": record.number, "epoch": record.epoch}
    whole = whole_step_text(record, text)
    yield Message("observations", whole, str(record.number).encode(), _of("step", headers), record.now)
    for decision, body in zip(record.decisions, text.decisions, strict=True):
        yield Message("decisions", body, decision.model_id.encode(), _of("decision", headers), record.now)


def outcome_messages(record: StepRecord, text: StepText, arrivals: Mapping[EntityKey, int]) -> Iterator[Message]:
    """What the step leaves in topics that keep the latest only."""
    headers = {"step": record.number, "epoch": record.epoch}
    at = record.now
    for key, entity in text.entities:
        arrival = {} if entity is None else {"arrival": arrivals[key]}
        yield Message("state", entity, entity_key(key), _of("entity", headers | arrival), at)
    for endpoint, body in zip(record.registry, text.endpoints, strict=True):
        gone = endpoint.phase is ReplicaPhase.GONE
        headers_of = _of("endpoint", headers)
        yield Message("endpoints", None if gone else body, endpoint.endpoint_id.encode(), headers_of, at)


def lease_messages(lease: Lease) -> Iterator[Message]:
    """The end of every transaction. In ``state`` it says which step the entities before it add up to."""
    text = to_text(wire.encode(lease))
    for topic in ("state", "lease"):
        headers = _of("lease", {"step": lease.step, "epoch": lease.epoch})
        yield Message(topic, text, LEASE_KEY, headers, lease.now)


def marker_message(holder: str) -> Message:
    """Tells a new leader, by where it comes to lie, how far its predecessors wrote."""
    return Message("state", to_text({"holder": holder}), MARKER_KEY, _of("marker", {}))


def ending_messages() -> Iterator[Message]:
    """One for each topic of the leader's that not every transaction reaches. Who takes it for a tombstone loses
    nothing.

    A node that starts while partitions have no leader takes them for deleted, and never marks there the end of a
    transaction that was committed as it died (KAFKA-20734): readers wait behind it, until the same transactional id
    ends another one in the same partition.
    """
    for topic in KEPT_BY_LEADER:
        if topic not in ("lease", "state"):
            yield Message(topic, None, MARKER_KEY, _of("marker", {}))


def checkpoint_message(checkpoint: Checkpoint, epoch: int) -> Message:
    headers = _of("checkpoint", {"step": checkpoint.number, "epoch": epoch, "now": repr(checkpoint.now)})
    return Message(
        "checkpoints", state_to_text(checkpoint.state), str(checkpoint.number).encode(), headers, checkpoint.now
    )


def record_messages(topic: str, records: Iterable[JsonValue], lease: Lease) -> list[Message]:
    """Records outside the steps, those of a model by its key. Raises ``WireError`` for what JSON cannot hold."""
    headers = _of("record", {"step": lease.step, "epoch": lease.epoch})
    messages = []
    for record in records:
        model_id = record.get("model_id") if isinstance(record, dict) else None
        key = model_id.encode() if isinstance(model_id, str) else None
        partition = 0 if key is None else None
        messages.append(Message(topic, to_text(record), key, headers, lease.now, partition))
    return messages


def lease_from(found: Found) -> Lease:
    lease: Lease = found.decoded("lease", lambda text: wire.decode(Lease, from_text(text)))
    return lease


def record_from(found: Found) -> JsonValue:
    """Also of what others wrote, without our headers."""
    value: JsonValue = from_text((found.value or b"null").decode("utf-8", "replace"))
    return value


def entity_key(key: EntityKey) -> bytes:
    return f"{key[0]}/{key[1]}".encode()


def entity_key_from(key: bytes) -> EntityKey:
    kind, _, name = key.decode().partition("/")
    return kind, name


def timestamp_ms(at: float) -> int:
    """Kafka counts whole milliseconds: rounded down, so that what is sought from a time on is never past it."""
    return math.floor(at * 1e3)


def _of(schema: str, headers: Mapping[str, object]) -> dict[str, object]:
    return {"schema": f"tidegate.{schema}/{VERSIONS[schema]}", **headers}


def parts(message: Message, limit_bytes: int) -> Iterator[tuple[bytes | None, list[tuple[str, bytes]]]]:
    """The values and headers by which ``message`` is sent, each with its key."""
    value = None if message.text is None else message.text.encode()
    headers = [(name, str(word).encode()) for name, word in message.headers.items()]
    most = limit_bytes - _ROOM_FOR_HEADERS
    if value is None or len(value) <= most:
        yield value, headers
        return
    count = math.ceil(len(value) / most)
    for index in range(count):
        piece = value[index * most : (index + 1) * most]
        yield piece, [*headers, ("part", f"{index + 1}/{count}".encode())]


class Joiner:
    """Puts parts together, read in either direction. What began or ends out of sight is left out."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._pieces: dict[int, Any] = {}

    def whole(self, record: Any) -> Found | None:
        """``record``: an aiokafka ``ConsumerRecord``. The message that it completes."""
        headers = {name: word.decode("utf-8", "replace") for name, word in record.headers}
        found = Found(record.key, record.value, headers, record.offset, record.timestamp)
        named = _PART.fullmatch(headers.get("part", ""))
        if named is None or not found.ours or record.value is None:
            return found
        index, count = named.groups()
        del headers["part"]
        message = (record.key, count, *sorted(headers.items()))
        if message != self._of:
            self._of, self._pieces = message, {}
        self._pieces[int(index)] = record
        if len(self._pieces) < int(count):
            return None
        pieces = [self._pieces[place] for place in sorted(self._pieces)]
        self._of, self._pieces = (), {}
        value = b"".join(piece.value for piece in pieces)
        return Found(record.key, value, headers, pieces[0].offset, record.timestamp)
