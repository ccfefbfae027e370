"""What answers at the broker's address while jobs are taken back: agents' routes, and nothing for anybody else."""

from __future__ import annotations

import httpx
import pytest

from broker.app.access import AgentAccess
from broker.app.adopting import agents_only_api
from broker.app.agents import AgentTable
from broker.clock import LoopClock
from broker.model import wire
from broker.model.identity import registration_token
from broker.model.state import BrokerState
from tests.runtime.api.test_agents import LAUNCH, TOKEN, report
from tests.support.api_world import BASE, SITE_SECRET

pytestmark = pytest.mark.looptime

OTHERS = registration_token(b"the secret of another site", LAUNCH)


async def asked(method: str, path: str, token: str) -> tuple[int, AgentTable]:
    clock = LoopClock(BASE)
    table = AgentTable(clock)
    app = agents_only_api(table, AgentAccess(SITE_SECRET), clock, BrokerState)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://broker") as client:
        headers = {"Authorization": f"Bearer {token}"}
        answer = await client.request(method, path, headers=headers, content=wire.dumps(report()))
    return answer.status_code, table


async def test_an_agent_with_its_jobs_token_is_heard_without_any_record_of_it() -> None:
    status, table = await asked("POST", f"/v1/agents/{LAUNCH}", TOKEN)
    assert (status, table.latest(LAUNCH)) == (200, report())


async def test_an_agent_of_another_secret_is_not() -> None:
    status, table = await asked("POST", f"/v1/agents/{LAUNCH}", OTHERS)
    assert (status, table.latest(LAUNCH)) == (401, None)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/endpoints"), ("GET", "/v1/endpoints/stream"), ("PUT", "/v1/gateways/gw")]
)
async def test_gateways_are_told_to_ask_again_and_no_registry(method: str, path: str) -> None:
    status, _ = await asked(method, path, TOKEN)
    assert status == 503
