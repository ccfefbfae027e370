"""A start takes its phases, and less where the model ran before."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from cli.clusters import read_cluster
from simulator.cold_start import (
    ColdStart,
    ColdStarts,
    Duration,
    NodeCaches,
    StartPhases,
)
from tests.unit.settings.files import EXAMPLES

PLAIN = ColdStart(
    cached_gib=10.0, boot=Duration(5.0), fetch=Duration(60.0), load=Duration(20.0), compile=Duration(30.0),
    warm_up=Duration(7.0), boot_again=Duration(3.0), warm_up_again=Duration(2.0),
)  # fmt: skip
EXAMPLE = read_cluster(EXAMPLES / "cluster.yaml").cold_starts["chat"]
COLD = StartPhases(5.0, 60.0, 20.0, 30.0, 7.0)
WARM = StartPhases(3.0, 0.0, 20.0, 0.0, 2.0)
MODELS = {"chat": PLAIN, "code": PLAIN, "large": replace(PLAIN, cached_gib=99.0)}


def starts(capacity_gib: float = 25.0, seed: int = 1) -> ColdStarts:
    return ColdStarts(seed, MODELS, NodeCaches(capacity_gib))


def test_the_first_start_on_a_node_takes_all_phases() -> None:
    assert starts().begin("chat-0-g1", "chat", [3], 0.0) == COLD
    assert COLD.total_s == 122.0


def test_where_the_model_ran_before_it_starts_faster_and_elsewhere_not() -> None:
    world = starts()
    world.begin("chat-0-g1", "chat", [3], 0.0)
    assert world.begin("chat-1-g2", "chat", [3], 1000.0) == WARM
    assert world.begin("chat-2-g3", "chat", [4], 1000.0) == COLD
    assert world.begin("code-0-g1", "code", [3], 1000.0) == COLD


def test_a_start_during_the_fetch_waits_for_its_rest() -> None:
    world = starts()
    world.begin("chat-0-g1", "chat", [3], 0.0)  # fetched at 65
    assert world.begin("chat-1-g2", "chat", [3], 40.0) == replace(WARM, fetch_s=22.0)


def test_on_several_nodes_the_slowest_counts_and_all_have_it_then() -> None:
    world = starts()
    world.begin("chat-0-g1", "chat", [1], 0.0)
    assert world.begin("chat-1-g2", "chat", [1, 2], 1000.0) == COLD
    assert world.begin("chat-2-g3", "chat", [1, 2], 2000.0) == WARM


def test_a_full_cache_lets_go_of_what_was_used_longest_ago() -> None:
    caches = NodeCaches(20.0)
    for at, model in enumerate(("a", "b", "a", "c")):
        caches.use(0, model, 10.0, float(at))
    assert caches.ready_at(0, "b") is None
    assert caches.ready_at(0, "a") == 0.0
    assert caches.ready_at(0, "c") == 3.0


def test_a_model_larger_than_the_cache_is_fetched_each_time_and_pushes_nothing_out() -> None:
    world = starts()
    world.begin("chat-0-g1", "chat", [0], 0.0)
    for generation in range(2):
        assert world.begin(f"large-0-g{generation}", "large", [0], 1000.0) == COLD
    assert world.begin("chat-0-g2", "chat", [0], 2000.0) == WARM


def test_what_a_replica_draws_depends_on_its_name_and_the_seed_alone() -> None:

    def draw(seed: int, *names: str) -> dict[str, StartPhases]:
        world = ColdStarts(seed, {"chat": EXAMPLE}, NodeCaches(0.0))
        return {name: world.begin(name, "chat", [0], 0.0) for name in names}

    assert draw(1, "a", "b") == {**draw(1, "b"), **draw(1, "a")}
    assert draw(1, "a") != draw(2, "a")
    assert draw(1, "a")["a"] != draw(1, "b")["b"]


def test_the_drawn_phases_have_their_medians_and_spread() -> None:
    world = ColdStarts(1, {"chat": EXAMPLE}, NodeCaches(0.0))
    drawn = [world.begin(f"r{number}", "chat", [0], 0.0) for number in range(4000)]
    for phase in fields(StartPhases):
        duration = getattr(EXAMPLE, phase.name.removesuffix("_s"))
        values = np.array([getattr(each, phase.name) for each in drawn])
        assert np.median(values) == pytest.approx(duration.median_s, rel=0.05)
        assert np.log(values).std() == pytest.approx(duration.sigma, rel=0.05)


def test_the_example_s_start_adds_up_to_what_was_published() -> None:
    cold = [getattr(EXAMPLE, name).median_s for name in ("boot", "fetch", "load", "compile", "warm_up")]
    warm = [getattr(EXAMPLE, name).median_s for name in ("boot_again", "load", "warm_up_again")]
    assert (sum(cold), sum(warm)) == (294.0, 82.0)
