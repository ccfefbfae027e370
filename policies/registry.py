"""Which policies there are, by the name under which ``policies.yaml`` chooses them."""

from __future__ import annotations

from collections.abc import Mapping

from broker.model import wire
from broker.model.errors import ConfigError
from broker.model.spec import PolicySpec
from policies import schedule, threshold
from policies.base import Policy, PolicyFactory


def build(spec: PolicySpec) -> Policy:
    """The policy that ``spec`` declares. Raises ``ConfigError`` whose ``field`` is relative to the declaration:
    ``kind``, or a path inside its parameters."""
    factory = FACTORIES.get(spec.kind)
    if factory is None:
        raise ConfigError(f"no policy is called {spec.kind!r}; there are {', '.join(sorted(FACTORIES))}", field="kind")
    return factory(spec)


def cached() -> PolicyFactory:
    """``build``, once for each declaration: a step asks for the policy at every decision.

    Declarations are told apart by identity first, which costs nothing, then by their text.
    """
    by_text: dict[str, Policy] = {}
    by_identity: dict[int, tuple[PolicySpec, Policy]] = {}

    def policy_of(spec: PolicySpec) -> Policy:
        known = by_identity.get(id(spec))
        if known is not None and known[0] is spec:
            return known[1]
        text = wire.dumps(spec)
        policy = by_text.get(text)
        if policy is None:
            policy = by_text[text] = build(spec)
        if len(by_identity) >= _REMEMBERED:
            by_identity.clear()
            by_text.clear()
        by_identity[id(spec)] = (spec, policy)
        return policy

    return policy_of


def _build_schedule(spec: PolicySpec) -> Policy:
    return schedule.build_schedule(spec, build)


FACTORIES: Mapping[str, PolicyFactory] = {
    threshold.KIND: threshold.build_threshold,
    schedule.KIND: _build_schedule,
}

_REMEMBERED = 10_000
