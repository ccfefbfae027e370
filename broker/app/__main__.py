"""``python -m broker.app docs/openapi.json``: write the OpenAPI document of the broker's API."""

from __future__ import annotations

import sys
from pathlib import Path

from broker.app.access import AgentAccess, Tokens
from broker.app.agents import AgentTable
from broker.app.api import ApiParts, create_api
from broker.app.explaining import Explainer
from broker.app.feed import Feed
from broker.app.openapi import document_text
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime
from broker.clock import SystemClock
from broker.log.memory import MemoryLog
from policies.registry import cached


def openapi_text() -> str:
    """The document as it should stand in ``docs/openapi.json``."""
    log, clock, policies = MemoryLog(), SystemClock(), cached()
    runner = AsyncRunner({}, clock, timeout_s=1.0, concurrency=1, may_act=lambda: False)
    runtime = Runtime(log=log, policies=policies, actuators={}, runner=runner, clock=clock)
    agents, access = AgentTable(clock), AgentAccess(b"")
    parts = ApiParts(runtime, Feed(runtime), Tokens({}), agents, access, Explainer(log, policies), version="0")
    return document_text(create_api(parts).openapi())


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m broker.app FILE", file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(openapi_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
