"""Who may ask what: bearer tokens with a scope, compared in constant time; and agents, each for its own job alone."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from broker.model.agents import AgentKeys, AgentReport
from broker.model.identity import agent_key, agent_key_holder, endpoint_key, metrics_key, registration_token

AGENT_KEY_LIVES_S: Final = 900.0


class Scope(StrEnum):
    """READ: look at everything. OPERATE: override and pause, and read. GATEWAY: endpoints and one's own session."""

    READ = "read"
    OPERATE = "operate"
    GATEWAY = "gateway"


_INCLUDES: Mapping[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.OPERATE, Scope.READ}),
    Scope.GATEWAY: frozenset({Scope.GATEWAY}),
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """One token for each scope; a scope without a token is closed to everybody."""

    by_scope: Mapping[Scope, str] = field(repr=False)

    def scopes_of(self, presented: str) -> frozenset[Scope]:
        """What the presented token may do; nothing if it is none of ours. Every token is compared, whatever matches."""
        granted: frozenset[Scope] = frozenset()
        for scope, token in self.by_scope.items():
            if hmac.compare_digest(token.encode(), presented.encode()) and token:
                granted |= _INCLUDES[scope]
        return granted


class AgentAccess:
    """What agents may show and are given. Everything derives from the site's secret, so nothing is remembered."""

    def __init__(self, site_secret: bytes) -> None:
        self._secret = site_secret

    def may_register(self, action_id: str, presented: str) -> bool:
        return hmac.compare_digest(registration_token(self._secret, action_id).encode(), presented.encode())

    def holder(self, action_id: str, presented: str, now: float) -> str | None:
        """The run of the agent whose key this is; None if it is nobody's any more."""
        return agent_key_holder(self._secret, action_id, presented, now)

    def wants_renewal(self, presented: str, now: float) -> bool:
        """Of a key that is somebody's."""
        return float(presented.split(".")[1]) - now < AGENT_KEY_LIVES_S / 2

    def keys(self, report: AgentReport, now: float) -> AgentKeys:
        expires_at = int(now + AGENT_KEY_LIVES_S)
        return AgentKeys(
            agent_key(self._secret, report.action_id, report.boot_id, expires_at),
            expires_at,
            endpoint_key(self._secret, report.replica_id, report.generation),
            metrics_key(self._secret, report.replica_id, report.generation),
        )
