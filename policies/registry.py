"""Which policies there are, by the name under which ``policies.yaml`` chooses them."""

from __future__ import annotations

from collections.abc import Mapping

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


def _build_schedule(spec: PolicySpec) -> Policy:
    return schedule.build_schedule(spec, build)


FACTORIES: Mapping[str, PolicyFactory] = {
    threshold.KIND: threshold.build_threshold,
    schedule.KIND: _build_schedule,
}
