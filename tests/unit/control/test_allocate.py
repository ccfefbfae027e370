"""Where new replicas go, which ones leave, and what limits both."""

from __future__ import annotations

import pytest

from broker.model.replica import ReplicaPhase, Tier
from broker.model.spec import Limits, PoolSpec
from tests.support.world import World, model_spec

DEDICATED = PoolSpec("dedicated", "local", 8, (Tier.BASELINE,))
BORROWED = PoolSpec("borrowed", "local", 8, (Tier.ELASTIC,))


def world_of(*pools: PoolSpec, rate: float = 1.0, limits: Limits | None = None, **spec: object) -> World:
    return World(models=(model_spec(**spec),), pools=pools or World().pools, limits=limits or Limits(), rate=rate)


def placed(world: World) -> list[tuple[str, str]]:
    return [(launch.pool_id, launch.tier.value) for launch in world.launches()]


# -- where


def test_the_baseline_goes_to_dedicated_and_the_rest_to_borrowed_capacity() -> None:
    world = world_of(BORROWED, DEDICATED, rate=4.0, minimum=2).begin()
    assert placed(world) == [("dedicated", "baseline")] * 2 + [("borrowed", "elastic")] * 2


def test_elastic_replicas_start_although_the_dedicated_pool_is_unknown() -> None:
    world = world_of(DEDICATED, BORROWED, rate=3.0)
    world.see(world.declared(), world.failed_listing("dedicated"), world.listing("borrowed"), world.snapshot())
    assert placed(world) == [("borrowed", "elastic")] * 2
    assert "dedicated has not been listed yet" in world.decision().trail[-1].words
    world.after(1).see(world.listing("dedicated"))
    assert placed(world) == [("dedicated", "baseline")]


def test_a_lost_baseline_replica_is_replaced_by_a_baseline_one() -> None:
    world = world_of(DEDICATED, BORROWED, rate=3.0, minimum=2).begin().bring_up()
    world.see(world.listing("dedicated", chat_0_g1=ReplicaPhase.FAILED))
    assert placed(world) == [("dedicated", "baseline")]


def test_the_first_declared_pool_with_room_is_taken() -> None:
    pools = PoolSpec("first", "local", 2), PoolSpec("second", "local", 8)
    world = world_of(*pools, rate=3.0).begin()
    assert [pool for pool, _ in placed(world)] == ["first", "first", "second"]


def test_a_model_goes_only_where_it_may() -> None:
    pools = PoolSpec("first", "local", 8), PoolSpec("second", "local", 2)
    world = world_of(*pools, rate=3.0, pools=("second",)).begin()
    assert [pool for pool, _ in placed(world)] == ["second", "second"]
    assert "second has 0 of 2 GPUs left" in world.decision().trail[-1].words


def test_gpus_of_large_replicas_are_counted() -> None:
    world = world_of(PoolSpec("local", "local", 8), rate=5.0, gpus=3).begin()
    assert len(world.launches()) == 2


def test_only_our_share_of_a_pool_is_used() -> None:
    world = world_of(PoolSpec("local", "local", 10), rate=8.0, limits=Limits(pool_share=0.5)).begin()
    assert len(world.launches()) == 5


def test_two_models_in_one_step_share_a_pool() -> None:
    models = model_spec("chat", minimum=3), model_spec("code", minimum=3)
    world = World(models=models, pools=(PoolSpec("local", "local", 4),)).begin()
    assert [launch.model.model_id for launch in world.launches()] == ["chat", "chat", "chat", "code"]


def test_a_stopping_replica_still_holds_its_gpu() -> None:
    world = world_of(PoolSpec("local", "local", 2), rate=2.0).begin().bring_up()
    world.after(1).wants(1.0)
    world.after(1).see(world.snapshot())
    assert world.count(ReplicaPhase.STOPPING) == 1
    world.after(1).wants(2.0)
    assert world.launches() == []
    world.after(1).see(world.listing(chat_1_g2=ReplicaPhase.GONE))
    assert len(world.launches()) == 1


def test_a_tier_that_no_pool_takes_says_so() -> None:
    world = world_of(DEDICATED, rate=2.0).begin()
    assert placed(world) == [("dedicated", "baseline")]
    assert world.decision().trail[-1].words == "no pool accepts elastic replicas"


def test_ordinals_are_used_again_and_generations_never() -> None:
    world = world_of(rate=3.0).begin().bring_up()
    world.see(world.listing(chat_1_g2=ReplicaPhase.FAILED))
    assert [launch.replica_id for launch in world.launches()] == ["chat-1-g4"]


# -- who leaves


def test_replicas_that_do_not_serve_yet_leave_first_newest_first() -> None:
    world = world_of(rate=1.0, minimum=0).begin().bring_up()
    world.after(1).wants(4.0)
    world.after(1).wants(2.0)
    assert [stop.replica_id for stop in world.stops()] == ["chat-3-g4", "chat-2-g3"]
    assert world.registry() == []


def test_elastic_replicas_leave_before_baseline_ones() -> None:
    world = world_of(DEDICATED, BORROWED, rate=3.0, minimum=2).begin().bring_up()
    world.loads = {"chat-2-g3": 100.0}
    world.declare(model_spec(minimum=1))
    world.after(1).wants(2.0)
    assert world.registry() == [("chat-2-g3", "draining")]


def test_what_drains_for_another_reason_is_not_taken_back() -> None:
    world = world_of().begin().bring_up()
    world.see(world.listing(chat_0_g1=ReplicaPhase.STOPPING))
    assert (world.registry(), len(world.launches())) == ([("chat-0-g1", "draining")], 1)


def test_a_draining_replica_that_its_pool_no_longer_lists_is_not_taken_back() -> None:
    world = world_of(rate=2.0).begin().bring_up()
    world.after(1).wants(1.0)
    shown = world.listing()
    world.after(1).see(type(shown)("local", world.now, world.now, True, shown.replicas[:1], 8))
    world.wants(2.0)
    assert (world.registry(), len(world.launches())) == ([], 1)


# -- limits


@pytest.mark.parametrize(
    ("limits", "waits"),
    [
        pytest.param(Limits(starts_per_minute=2), [0.0, 60.0, 120.0], id="two a minute"),
        pytest.param(Limits(starts_per_hour=2), [0.0, 3600.0, 7200.0], id="two an hour"),
    ],
)
def test_starts_are_limited_in_a_sliding_time(limits: Limits, waits: list[float]) -> None:
    world = world_of(rate=6.0, limits=limits).begin()
    began, started = world.now, [world.now] * len(world.launches())
    while len(started) < 6:
        world.see(*(world.accept(launch) for launch in world.launches()))
        world.now = world.state.models["chat"].wake_at or 0.0
        world.see(world.listing(), world.snapshot())
        started += [world.now] * len(world.launches())
    assert [at - began for at in started[::2]] == pytest.approx(waits)


def test_stops_are_limited_in_a_sliding_minute() -> None:
    world = world_of(rate=6.0, limits=Limits(stops_per_minute=2)).begin().bring_up()
    world.after(1).wants(1.0)
    assert (len(world.registry()), world.codes()[-1]) == (2, "stop_rate")
    world.after(59.9).see(world.snapshot())
    assert world.registry() == []
    world.after(0.1).see(world.snapshot())
    assert len(world.registry()) == 2


def test_the_stops_of_a_removed_model_go_on_by_time_alone() -> None:
    world = world_of(rate=4.0, limits=Limits(stops_per_minute=2), minimum=4).begin().bring_up()
    world.models = ()
    world.see(world.declared())
    assert len(world.registry()) == 2
    while world.count(ReplicaPhase.READY):
        assert world.wake() > 0


def test_loads_at_once_are_limited_over_all_models() -> None:
    models = model_spec("chat", minimum=3), model_spec("code", minimum=3)
    world = World(models=models, limits=Limits(concurrent_loads=4)).begin()
    assert [launch.model.model_id for launch in world.launches()] == ["chat", "chat", "chat", "code"]
    assert world.codes("code")[-1] == "concurrent_loads"
    world.bring_up()
    assert len(world.launches()) == 2


def test_a_limit_that_cannot_be_met_is_not_a_busy_loop() -> None:
    world = world_of(rate=6.0, limits=Limits(starts_per_minute=0)).begin()
    assert world.launches() == []
    assert world.result is not None
    assert world.result.wake_at is not None
    assert world.result.wake_at > world.now
