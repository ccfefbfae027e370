"""Who may ask what: bearer tokens with a scope, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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
