"""The bodies of the HTTP API: pydantic checks what comes in, plain values with the wire's codecs go out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from broker.model.observation import Override, PauseChanged
from broker.model.plan import Decision
from broker.model.replica import Replica
from broker.model.signals import MOST_OPEN_REQUESTS
from broker.model.snapshot import ModelSnapshot
from broker.model.state import Breaker, PoolState

LONGEST_ID = 200
MOST_SUMMARIES = 10_000
_Whole = Annotated[int, Field(ge=0, le=2**53)]
"""JSON readers of other languages lose digits beyond 2**53."""
_OpenRequests = Annotated[int, Field(ge=0, le=MOST_OPEN_REQUESTS)]

Author = Annotated[str, Field(min_length=1, max_length=200)]
Because = Annotated[str, Field(min_length=1, max_length=1000)]


def validation_problems(errors: Iterable[Any]) -> list[str]:
    """What pydantic found, each with its place."""
    return [f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in errors]


class GatewaySessionBody(BaseModel):
    """A gateway's heartbeat, every second. `summaries` are RequestSummary objects; a bad one is set aside, not fatal.

    `applied_revision` is the registry revision that the gateway's table holds, `in_flight` counts open requests by
    endpoint id, `closed` ends the session.
    """

    model_config = ConfigDict(extra="ignore")
    boot_id: str = Field(min_length=1, max_length=LONGEST_ID)
    sequence: _Whole
    applied_revision: _Whole
    observed_at: FiniteFloat
    in_flight: dict[Annotated[str, Field(min_length=1, max_length=LONGEST_ID)], _OpenRequests] = {}
    closed: bool = False
    summaries: list[Any] = Field(default=[], max_length=MOST_SUMMARIES)


class OverrideBody(BaseModel):
    """`target` null holds the present one."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    model_id: str
    target: int | None = Field(default=None, ge=0, le=1_000_000)
    for_s: float = Field(gt=0, le=366 * 86400)
    because: Because
    author: Author


class PauseBody(BaseModel):
    """`name` is the pool's or the model's, empty for `all`."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    scope: Literal["all", "pool", "model"]
    name: str = ""
    paused: bool
    because: Because
    author: Author


@dataclass(frozen=True, slots=True)
class Health:
    """``problem`` says why steps do not go on, null while they do. ``epoch`` counts terms of leadership."""

    status: str
    leader: bool
    epoch: int | None
    last_step_age_s: float | None
    problem: str | None
    version: str


@dataclass(frozen=True, slots=True)
class SessionTaken:
    """``revision`` is the registry's newest."""

    revision: int


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """One target of Prometheus's http_sd."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """``phases`` counts the replicas on record by phase. ``last_code`` is the reason of the last decision, ``standing``
    what keeps the model from its target now, in sentences."""

    model_id: str
    target: int
    baseline: int
    minimum: int
    maximum: int
    policy: str
    retired: bool
    phases: Mapping[str, int]
    override: Override | None
    breakers: Mapping[str, Breaker]
    last_code: str
    standing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelList:
    """``pauses`` are those in force, of whatever scope."""

    now: float
    models: tuple[ModelStatus, ...]
    pauses: tuple[PauseChanged, ...]


@dataclass(frozen=True, slots=True)
class ReplicaList:
    """``pools`` are those of the site, whosever replicas were asked for: where one cannot be listed, what is on record
    of its replicas is of ``unknown_since``."""

    now: float
    replicas: tuple[Replica, ...]
    pools: tuple[PoolState, ...]


@dataclass(frozen=True, slots=True)
class DecisionList:
    """Newest first."""

    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class SmallestChange:
    """The least change of input with which the target would have been ``target``. ``signal``, ``was`` and
    ``becomes`` are null where it is no signal's."""

    words: str
    target: int
    signal: str | None
    was: float | None
    becomes: float | None


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """``words`` are sentences for people, the last of them on how the model stands now. ``smallest_change`` is null if
    nothing tried would have changed the decision."""

    decision: Decision
    words: tuple[str, ...]
    smallest_change: SmallestChange | None


@dataclass(frozen=True, slots=True)
class LatestSnapshot:
    """``snapshot`` is null before the first one."""

    snapshot: ModelSnapshot | None


@dataclass(frozen=True, slots=True)
class OverrideTaken:
    """What the committed step made of the order: ``target`` is the model's now, bounds and limits applied. ``until``
    is null when an override was taken back."""

    model_id: str
    target: int
    until: float | None


@dataclass(frozen=True, slots=True)
class PauseTaken:
    scope: str
    name: str
    paused: bool


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """``message`` says what, where, and how to mend it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    error: ErrorBody
