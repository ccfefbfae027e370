"""What the agents on nodes say: their routes of the API, and the table that actuators read.

The table is memory only. A new broker knows none of them, but knows each one's key, and within a heartbeat its report.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from broker.app.access import AgentAccess
from broker.app.guard import Problem, bearer, guarded_by, unknown_token
from broker.app.openapi import answers
from broker.model import wire
from broker.model.agents import (
    DRAINING_HEARTBEAT_S,
    HEARTBEAT_S,
    SILENT_AFTER_S,
    AgentAnswer,
    AgentKeys,
    AgentOrder,
    AgentPhase,
    AgentReport,
)
from broker.model.errors import WireError, shown
from broker.model.ports import Clock
from broker.model.replica import ENDED, ReplicaPhase
from broker.model.state import BrokerState

logger = structlog.get_logger("broker")

MOST_AGENTS: Final = 10_000
MOST_REPORT_BYTES: Final = 65_536
FORGOTTEN_AFTER_S: Final = 3600.0
"""For so long the cause of an end can be read."""
_ActionId = Annotated[str, Path(max_length=200)]
_BOOT_ID: Final = re.compile(r"[0-9a-f]{8,64}")

_REPORT: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "schema": {"const": "tidegate.agent_report/1"},
                        "data": {"$ref": "#/components/schemas/agent_report"},
                    },
                    "required": ["schema", "data"],
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class _Heard:
    report: AgentReport
    at: float


class AgentTable:
    """The newest report of each agent by its job's name, and what each is to be told: ``broker.model.agents.Agents``.

    At most ``MOST_AGENTS``: the one not heard for longest is forgotten first.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: OrderedDict[str, _Heard] = OrderedDict()
        self._orders: dict[str, AgentOrder] = {}

    def hear(self, report: AgentReport) -> None:
        """Take a report, unless a newer one of the same run is known. Raises ``Problem`` while another run of this
        agent is there: what was to be started once must not serve twice."""
        name = report.action_id
        known = self._heard.get(name)
        if known is not None and known.report.boot_id == report.boot_id:
            if known.report.sequence >= report.sequence:
                return
        elif known is not None and self._is_there(known):
            words = f"another run of the agent of {report.replica_id} reports from {known.report.node}"
            raise Problem(
                409, "another_agent", f"{words}; this one is heard {SILENT_AFTER_S:g} s after that one's last"
            )
        if known is None or (known.report.boot_id, known.report.phase) != (report.boot_id, report.phase):
            _tell_of(report)
        self._heard[name] = _Heard(report, self._clock.now())
        self._heard.move_to_end(name)
        self._forget()

    def latest(self, action_id: str) -> AgentReport | None:
        heard = self._heard.get(action_id)
        if heard is None or not (self._is_there(heard) or heard.report.phase is AgentPhase.ENDED):
            return None
        return heard.report

    def tell(self, action_id: str, order: AgentOrder) -> None:
        """Forgotten with the agent, and by a new broker, whose core says it again."""
        if action_id in self._heard:
            self._orders[action_id] = order

    def order(self, action_id: str) -> AgentOrder:
        return self._orders.get(action_id, AgentOrder.KEEP)

    def _is_there(self, heard: _Heard) -> bool:
        return heard.report.phase is not AgentPhase.ENDED and self._clock.now() - heard.at <= SILENT_AFTER_S

    def _forget(self) -> None:
        oldest = self._clock.now() - FORGOTTEN_AFTER_S
        while len(self._heard) > MOST_AGENTS or next(iter(self._heard.values())).at < oldest:
            name, _ = self._heard.popitem(last=False)
            self._orders.pop(name, None)


def _tell_of(report: AgentReport) -> None:
    told = logger.bind(replica_id=report.replica_id, node=report.node, job_id=report.job_id, detail=report.detail)
    if report.end is not None:
        told.info("agent_ended", cause=report.end.cause.value, words=report.end.detail)
    else:
        asks = {} if report.drain is None else {"asks_to_be_drained_for": report.drain.cause.value}
        told.info("agent_reports", phase=report.phase.value, url=report.url, **asks)


def agents_router(table: AgentTable, access: AgentAccess, clock: Clock, state: Callable[[], BrokerState]) -> APIRouter:
    """Registration and heartbeats, each behind a token of its own kind. ``state`` is the newest."""

    def check(request: Request) -> None:
        action_id, presented = request.path_params["action_id"], bearer(request)
        if request.method == "POST":
            known = access.may_register(action_id, presented)
        else:
            known = access.holder(action_id, presented, clock.now()) is not None
        if not known:
            raise unknown_token()

    scheme = HTTPBearer(scheme_name="token", auto_error=False)  # for the document; the route class checks
    router = APIRouter(route_class=guarded_by(check), dependencies=[Depends(scheme)])

    @router.post(
        "/v1/agents/{action_id}", summary="An agent's registration", openapi_extra=_REPORT,
        **answers(AgentAnswer, 401, 403, 409, 413, 422),
    )  # fmt: skip
    async def register(action_id: _ActionId, request: Request) -> JSONResponse:
        """Its answer has the agent's keys. Scope: that job's registration token, and no other."""
        report = await _report(request, action_id)
        table.hear(report)
        keys = access.keys(report, clock.now())
        return _answer(_order(report, table, state()), keys)

    @router.put(
        "/v1/agents/{action_id}", summary="An agent's heartbeat", openapi_extra=_REPORT,
        **answers(AgentAnswer, 401, 403, 409, 413, 422),
    )  # fmt: skip
    async def heartbeat(action_id: _ActionId, request: Request) -> JSONResponse:
        """The answer has new keys before the old one expires. Scope: the key that the registration gave."""
        report, now, presented = await _report(request, action_id), clock.now(), bearer(request)
        if report.boot_id != access.holder(action_id, presented, now):
            raise Problem(403, "forbidden", f"this key is not that of the run {shown(report.boot_id)}; register it")
        table.hear(report)
        keys = access.keys(report, now) if access.wants_renewal(presented, now) else None
        return _answer(_order(report, table, state()), keys)

    return router


async def _report(request: Request, action_id: str) -> AgentReport:
    body = await request.body()
    if len(body) > MOST_REPORT_BYTES:
        raise Problem(413, "too_large", f"a report has at most {MOST_REPORT_BYTES} bytes")
    try:
        report: AgentReport = wire.loads(AgentReport, body)
    except WireError as error:
        raise Problem(422, "invalid", f"body: {error}") from None
    if not _BOOT_ID.fullmatch(report.boot_id):
        raise Problem(422, "invalid", "body.data.boot_id: it is 8 to 64 digits of 0-9 and a-f")
    try:
        named = report.action_id
    except UnicodeEncodeError:
        raise Problem(422, "invalid", "body.data: the cluster and the model are named in whole characters") from None
    if named != action_id:
        raise Problem(403, "forbidden", f"{shown(report.replica_id)} is not the replica of this action")
    return report


def _order(report: AgentReport, table: AgentTable, state: BrokerState) -> AgentOrder:
    """What its actuator says, else what its record does: an agent whose replica is over serves nobody. Slurm ends a job
    whose node was set DOWN without ending its processes there, and its listings show nothing of them."""
    told = table.order(report.action_id)
    record = state.replicas_of(report.model_id).get(report.replica_id)
    if told is not AgentOrder.KEEP or record is None:
        return told
    if record.phase in ENDED:
        return AgentOrder.STOP
    return AgentOrder.DRAIN if record.phase is ReplicaPhase.DRAINING else AgentOrder.KEEP


def _answer(order: AgentOrder, keys: AgentKeys | None) -> JSONResponse:
    heartbeat_s = DRAINING_HEARTBEAT_S if order is AgentOrder.DRAIN else HEARTBEAT_S
    return JSONResponse(wire.encode(AgentAnswer(order, heartbeat_s, keys)))
