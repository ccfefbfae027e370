"""The windows that a worker owns, by partition: who may speak for which model, and from when on.

A partition that is gained is opened before it speaks: what its last owner settled, then what the log still has, then
what came meanwhile. Whether a sample counts must not depend on who owned its window and when that one looked, since
else a successor would see another past; so lateness goes by the log's own clock (``LATE_MARGIN_S``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from broker.control.answers import in_words
from broker.control.decide import Policies
from broker.control.snapshots import SnapshotMaker
from broker.control.windows import TellFault
from broker.model import wire
from broker.model.errors import ConfigError, WireError
from broker.model.making import copy_with, quickly_made
from broker.model.signals import MetricSample, RequestSummary
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import Limits
from broker.model.state import BrokerState
from broker.model.window_state import WindowState
from signals.window import SKEW_TOLERANCE_S, retention_s

try:
    import orjson
except ModuleNotFoundError:
    raise ConfigError("a worker needs orjson: pip install 'tidegate[worker]'") from None

HINTS: Mapping[str, type] = {"signals": MetricSample, "requests": RequestSummary}
"""What the topics of measurements carry."""

LATE_MARGIN_S = 1.0
"""A sample that took this much less than the patience to the log is late: a window's own word, by when it was last
looked at, comes after it."""

LONGEST_GAP_S = 60.0
"""How long a partition may have been nobody's and still be read in whole. Of what was missed before, windows say that
they did not see it."""

MOST_OFF = 1000
"""Of those whose measurements come from another time, how many are kept to be told of."""

SEQUENCES_APART = 1000
"""Numbers between an owner's last settled snapshot and its successor's first: more than it may have made since."""


@quickly_made
@dataclass(frozen=True, slots=True)
class Arrived:
    """One message of a topic (named without the site's prefix). ``at``: the log's time of its arrival."""

    topic: str
    partition: int
    offset: int
    at: float
    key: bytes | None
    value: bytes | None


def measurement(arrived: Arrived) -> MetricSample | RequestSummary:
    """What the message says, received when the log took it in. Raises ``WireError`` for what must not reach a
    window."""
    if arrived.value is None:
        raise WireError("it is empty")
    try:
        envelope = orjson.loads(arrived.value)  # half of a sample's time, by the standard library
    except orjson.JSONDecodeError as error:
        raise WireError(f"not JSON: {error}") from None
    sample: MetricSample | RequestSummary = wire.unwrapped(HINTS[arrived.topic], envelope)
    if arrived.key != sample.model_id.encode():
        raise WireError(f"its key is {arrived.key!r}, not its model's id {sample.model_id!r}", field="key")
    if problem := sample.implausible():
        raise WireError(problem)
    return copy_with(sample, received_at=arrived.at)


class Opening:
    """One partition on its way to an owner. ``states`` are what was settled of its models, by model; ``told_to`` has up
    to where of each topic the owners before it told what was bad."""

    def __init__(self, partition: int, maker: SnapshotMaker, patience_s: float, told_to: Mapping[str, int]) -> None:
        self.partition = partition
        self.told_to = told_to
        self.maker = maker
        self.states: dict[str, WindowState] = {}
        self.meanwhile: list[Arrived] = []
        self._patience_s = patience_s

    def settled(self, model_id: str, state: WindowState | None) -> None:
        """The last owner's word on a model; None takes it back."""
        if state is None:
            self.states.pop(model_id, None)
        else:
            self.states[model_id] = state

    def since(self, now: float) -> float:
        """From when on the log must be read again."""
        least = now - self._patience_s - LONGEST_GAP_S
        settled_at = min([state.settled_at for state in self.states.values()], default=least)
        return max(settled_at, least) - retention_s(self._patience_s)


class OwnedWindows:
    """The windows of all partitions that this worker owns.

    ``partition_of`` says where a model belongs, ``tell_fault`` is told of a window that failed. ``late`` counts what
    came too late to count. ``off`` has who measured it, and by how much, in seconds; below zero who measures in the
    future. Whoever tells of it empties it.
    """

    def __init__(self, policies: Policies, tell_fault: TellFault, partition_of: Callable[[str], int]) -> None:
        self.late = 0
        self.off: dict[str, float] = {}
        self._policies = policies
        self._tell_fault = tell_fault
        self._partition_of = partition_of
        self._state = BrokerState()
        self._open: dict[int, SnapshotMaker] = {}
        self._opening: dict[int, Opening] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """Those that speak."""
        return frozenset(self._open)

    @property
    def patience_s(self) -> float:
        site = self._state.control.site
        return (site.limits if site else Limits()).signal_patience_s

    def follow(self, state: BrokerState, changed_at: Mapping[str, float]) -> None:
        """These models look different in ``state``, since when."""
        self._state = state
        for model_id, at in changed_at.items():
            partition = self._partition_of(model_id)
            opening = self._opening.get(partition)
            maker = self._open.get(partition) if opening is None else opening.maker
            if maker is not None:
                maker.follow(state, (model_id,), at)

    def assign(self, partitions: Iterable[int]) -> set[int]:
        """From now on exactly these are ours; those that are to be opened."""
        ours = set(partitions)
        for lost in (self._open.keys() | self._opening.keys()) - ours:
            self._open.pop(lost, None)
            self._opening.pop(lost, None)
        return ours - self._open.keys() - self._opening.keys()

    def begin(
        self, partition: int, changed_at: Mapping[str, float], told_to: Mapping[str, int] | None = None
    ) -> Opening:
        """Open a partition: fill in ``settled``, then ``replay`` what the log has ``since``, then ``complete``."""
        maker = SnapshotMaker(self._policies, self._tell_fault)
        opening = self._opening[partition] = Opening(partition, maker, self.patience_s, told_to or {})
        for model_id in self._state.models:
            if self._partition_of(model_id) == partition:
                maker.follow(self._state, (model_id,), changed_at.get(model_id, 0.0))
        return opening

    def replay(self, opening: Opening, arrived: Arrived) -> str:
        """Something that the log still has: why it is bad, if nobody has told so yet, as nobody may have owned the
        partition when it came."""
        problem, _ = self._observed(opening.maker, arrived)
        return problem if arrived.offset >= opening.told_to.get(arrived.topic, 0) else ""

    def complete(self, opening: Opening) -> list[tuple[Arrived, str]]:
        """The partition speaks from now on, if it is still ours. What came meanwhile and was bad, with the reason."""
        if self._opening.get(opening.partition) is not opening:
            return []
        del self._opening[opening.partition]
        for state in opening.states.values():
            opening.maker.resume(replace(state, sequence=state.sequence + SEQUENCES_APART))
        self._open[opening.partition] = opening.maker
        told = [(arrived, self.take(arrived)[0]) for arrived in opening.meanwhile]
        return [(arrived, problem) for arrived, problem in told if problem]

    def take(self, arrived: Arrived) -> tuple[str, bool]:
        """One message as it comes: why it is bad (empty if it is not), and whether a snapshot is due at once."""
        opening = self._opening.get(arrived.partition)
        if opening is not None:
            opening.meanwhile.append(arrived)
            return "", False
        maker = self._open.get(arrived.partition)
        return ("", False) if maker is None else self._observed(maker, arrived)

    def _observed(self, maker: SnapshotMaker, arrived: Arrived) -> tuple[str, bool]:
        try:
            return "", self._observe(maker, arrived)
        except WireError as error:
            return str(error), False
        except Exception as error:  # nobody foresaw it: the others that came with this one count all the same
            return in_words(error), False

    def _observe(self, maker: SnapshotMaker, arrived: Arrived) -> bool:
        sample = measurement(arrived)
        belongs = self._partition_of(sample.model_id)
        if belongs != arrived.partition:
            raise WireError(
                f"model {sample.model_id!r} belongs in partition {belongs}: let its producer partition by murmur2 of "
                "the key, as Kafka's own clients do"
            )
        delay_s = sample.received_at - sample.observed_at
        late = delay_s > self.patience_s - LATE_MARGIN_S
        if (late or delay_s < -SKEW_TOLERANCE_S) and len(self.off) < MOST_OFF:
            self.off[sample.replica_id if isinstance(sample, MetricSample) else sample.gateway_id] = delay_s
        if late:
            self.late += 1
            return False
        return maker.observe(sample)

    def due_at(self) -> float | None:
        """When ``make`` should be called next, None while no model is ours."""
        return min([due for maker in self._open.values() if (due := maker.due_at()) is not None], default=None)

    def make(self, now: float) -> Iterator[tuple[int, list[ModelSnapshot]]]:
        """The snapshots that are due, by partition; those of one are made at once."""
        for partition, maker in list(self._open.items()):
            yield partition, maker.make(now)

    def states(self) -> Iterator[tuple[int, WindowState]]:
        """What is settled of each model, with its partition."""
        for partition, maker in list(self._open.items()):
            for state in maker.states():
                yield partition, state
