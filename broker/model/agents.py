"""What the agent on a node and the broker tell each other (``POST`` and ``PUT /v1/agents/{action_id}``).

An agent may be older than the broker it reports to, since jobs live for days: its report travels in the envelope with
its schema's version, and both sides ignore fields that they do not know. The agent itself imports none of this, for it
is one file on a bare node; a test holds what it sends against these types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from broker.model.identity import action_id, replica_name
from broker.model.starts import StartPlace

HEARTBEAT_S: Final = 2.0
DRAINING_HEARTBEAT_S: Final = 0.5
"""Of an agent whose replica drains: it hears of the end of its last stream from the broker, and holds its GPUs."""
SILENT_AFTER_S: Final = 15.0
"""An agent not heard for this long is silent. That says nothing of its engine: probes do."""


class AgentPhase(StrEnum):
    """STARTING: no engine runs yet. LOADING: it runs and does not answer with its model. READY: it has, to its key and
    to nobody else. DRAINING: it finishes what it has. ENDED: it is gone, and the report's ``end`` says why."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class EndCause(StrEnum):
    """STOPPED: told to exit. EXPIRED: its wall time. PREEMPTED: given notice long before that. OUT_OF_MEMORY: the
    kernel ended a process of the job. CRASHED: it exited unasked, whatever its code. UNHEALTHY: it never answered as
    itself within its load time. NOT_STARTED: it could not be executed, or there was no port for it."""

    STOPPED = "stopped"
    EXPIRED = "expired"
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    UNHEALTHY = "unhealthy"
    NOT_STARTED = "not_started"


class DrainCause(StrEnum):
    """Why an agent asks to be drained. WALL_TIME: the warning signal came. PREEMPTION: it came long before the wall
    time. TERMINATED: Slurm or a person told it to exit."""

    WALL_TIME = "wall_time"
    PREEMPTION = "preemption"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """``by`` is when the agent will end its engine by itself."""

    cause: DrainCause
    by: float


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """How an engine ended. ``exit_code`` and ``exit_signal`` are its main process's; null if it never ran."""

    cause: EndCause
    detail: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None


@dataclass(frozen=True, slots=True)
class AgentReport:
    """An agent's heartbeat.

    ``boot_id`` is new for each run of the agent, ``sequence`` rises with each report of a run. ``model_id``,
    ``ordinal`` and ``generation`` are what the action's name was made of. ``url`` is where the engine is reached.
    ``unhealthy_since``: it was ready and does not answer since. ``in_flight`` counts open requests at the front, null
    without one. ``end_at`` is the job's end as its environment told it. ``drain`` asks the broker to withdraw it.
    ``start_place`` is looked at before the engine is started.
    """

    boot_id: str
    sequence: int
    observed_at: float
    cluster: str
    model_id: str
    ordinal: int
    generation: int
    phase: AgentPhase
    node: str
    detail: str = ""
    job_id: int | None = None
    restarts: int = 0
    url: str | None = None
    unhealthy_since: float | None = None
    in_flight: int | None = None
    end_at: float | None = None
    drain: DrainRequest | None = None
    end: AgentEnd | None = None
    start_place: StartPlace | None = None

    @property
    def action_id(self) -> str:
        """The name of the launch that this agent carries out."""
        return action_id("launch", self.cluster, self.model_id, self.ordinal, self.generation)

    @property
    def replica_id(self) -> str:
        return replica_name(self.model_id, self.ordinal, self.generation)


class AgentOrder(StrEnum):
    """KEEP serving. DRAIN: the broker has withdrawn it; requests still come until gateways know. STOP: exit, letting
    what runs finish within the stop's grace."""

    KEEP = "keep"
    DRAIN = "drain"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """What a registered agent may know. ``agent_key`` is for its heartbeats until ``expires_at``; ``endpoint_key`` is
    what gateways show, ``metrics_key`` what the broker shows for ``/metrics``."""

    agent_key: str
    expires_at: float
    endpoint_key: str
    metrics_key: str


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """``heartbeat_s`` is when to report again; ``keys`` come at registration and when the key is to be replaced."""

    order: AgentOrder
    heartbeat_s: float = HEARTBEAT_S
    keys: AgentKeys | None = None


class Agents(Protocol):
    """What an actuator may know of the agents, and tell them."""

    def latest(self, action_id: str) -> AgentReport | None:
        """The newest report of the job of this name; None if it is silent, unless it has reported its end."""
        ...

    def tell(self, action_id: str, order: AgentOrder) -> None:
        """What the agent is answered from its next report on."""
        ...
