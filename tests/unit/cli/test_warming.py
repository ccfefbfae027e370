"""How long a run warms up: as long as its models' starts take, whatever policy decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.app.settings import load_policies
from broker.model.errors import ConfigError
from broker.model.spec import EngineSpec, ModelSpec
from cli.clusters import read_cluster
from cli.warming import warm_up_for
from tests.support.shared_data import REPOSITORY
from tests.support.simulated import ELASTIC

EXAMPLES = REPOSITORY / "deploy" / "examples"


def with_engine(profile: str | None) -> ModelSpec:
    return replace(ELASTIC, engine=EngineSpec(("serve",), profile=profile))


@pytest.mark.parametrize(
    ("profiles", "warm_up_s"),
    [
        pytest.param([], 120.0, id="no model"),
        pytest.param([None], 120.0, id="the demo's engine, which loads for 2 s"),
        pytest.param(["h100-mistral-nemo-12b"], 180.0, id="one that loads for 2 min"),
        pytest.param([None, "h100-mistral-nemo-12b"], 180.0, id="the slowest counts"),
    ],
)
def test_the_slowest_start_is_covered_with_a_minute_to_spare(profiles: list[str | None], warm_up_s: float) -> None:
    assert warm_up_for(map(with_engine, profiles), None) == warm_up_s


def test_a_cluster_s_cold_starts_take_the_place_of_the_profile_s() -> None:
    """The example's chat starts in 294 s by its medians; two minutes of warm-up made its first users leave."""
    models = load_policies(EXAMPLES / "policies-slurm.yaml")
    cluster = read_cluster(EXAMPLES / "cluster.yaml")
    assert warm_up_for(models, cluster) == 18 * 60.0


def test_settings_of_a_policy_change_no_warm_up() -> None:
    """Else two policies met another cluster."""
    model = with_engine("h100-mistral-nemo-12b")
    assert warm_up_for([replace(model, minimum=0)], None) == warm_up_for([replace(model, minimum=4)], None)


def test_an_engine_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="no engine profile 'h200'"):
        warm_up_for([with_engine("h200")], None)
