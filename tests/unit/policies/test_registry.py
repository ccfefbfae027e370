"""From a declaration to a policy."""

from __future__ import annotations

from typing import Any

import pytest

from broker.model.errors import ConfigError
from broker.model.spec import PolicySpec
from policies.registry import FACTORIES, build

PARAMETERS: dict[str, dict[str, Any]] = {
    "threshold": {"rules": [{"name": "queue", "signal": "queue_age_s", "above": 5, "for_s": 30, "change": 1}]},
    "schedule": {"time_zone": "UTC", "default": {"floor": 1, "ceiling": 2}},
}


@pytest.mark.parametrize("kind", FACTORIES)
def test_a_policy_knows_the_kind_it_was_chosen_by(kind: str) -> None:
    assert build(PolicySpec(kind, PARAMETERS[kind])).kind == kind


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="kind: no policy is called 'oracle'; there are schedule, threshold"):
        build(PolicySpec("oracle"))
