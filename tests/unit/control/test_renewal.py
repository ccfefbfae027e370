"""Renewal: what its pool will end has a successor before that, and nobody's request is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.control.draft import endpoint_record
from broker.model.observation import PauseScope
from broker.model.plan import Recommendation
from broker.model.replica import ReplicaPhase
from broker.model.snapshot import FleetSnapshot
from broker.model.spec import Limits, PoolSpec, RenewalSpec
from broker.model.starts import StartPlace, StartTime, StartTimes
from broker.model.state import Memory
from tests.support.world import FakePolicy, World, model_spec

DAY_S = 86400.0
FIRST, SECOND = "chat-0-g1", "chat-1-g2"
RENEWAL = RenewalSpec(margin_s=100.0, queue_prior_s=600.0, load_prior_s=300.0)
RESERVED_S = 100.0 + 400.0  # the margin and the drain limit


def serving(life_s: float | None = DAY_S, gpus: int = 8, maximum: int = 1) -> World:
    """One replica serves that its pool ends a day after its start."""
    world = World(
        models=(model_spec(drain_limit_s=400.0, maximum=maximum),), pools=(PoolSpec("local", "slurm", gpus=gpus),),
        limits=Limits(renewal=RENEWAL), life_s=life_s,
    )  # fmt: skip
    return world.begin().bring_up()


def at(world: World, before_end_s: float) -> World:
    """So long before the first replica's end, with everybody awake: its pool is listed, its model looked at."""
    world.now = world.replica(FIRST).not_after - before_end_s  # type: ignore[operator]  # it has one
    world.see(world.listing(), world.snapshot())
    return world


def test_gateways_are_told_until_when_a_replica_takes_requests() -> None:
    world = serving()
    record = world.replica(FIRST)
    assert record.not_after == world.now + DAY_S
    assert endpoint_record(record).not_after == world.now + DAY_S - RESERVED_S


def test_a_replica_that_nobody_ends_is_never_succeeded() -> None:
    world = serving(life_s=None)
    world.after(30 * DAY_S).see(world.listing(), world.snapshot())
    assert (world.launches(), world.replica(FIRST).expiring_since) == ([], None)


def test_a_successor_is_asked_for_as_long_before_as_queueing_and_loading_may_take() -> None:
    world = at(serving(), RESERVED_S + 900.1)
    assert world.launches() == []
    assert world.wake() == pytest.approx(0.1)
    assert [launch.replica_id for launch in world.launches()] == [SECOND]
    assert world.phases() == {FIRST: "ready", SECOND: "requested"}


def test_the_predecessor_leaves_when_its_successor_is_ready() -> None:
    world = at(serving(), RESERVED_S + 900)
    world.after(60)
    world.bring_up()
    world.see(world.snapshot())
    assert world.phases() == {FIRST: "draining", SECOND: "ready"}
    assert "expiry" in world.replica(FIRST).drain.reason  # type: ignore[union-attr]  # it is draining


def test_a_warning_of_the_end_asks_for_a_successor_and_withdraws_nobody_before_that_is_ready() -> None:
    world = at(serving(), RESERVED_S + 2000)
    listing = world.listing()
    (row,) = listing.replicas
    world.see(replace(listing, replicas=(replace(row, warned=True),)), world.snapshot())
    assert world.phases() == {FIRST: "ready", SECOND: "requested"}
    world.after(60)
    world.bring_up()
    world.see(world.snapshot())
    assert world.phases() == {FIRST: "draining", SECOND: "ready"}


def test_a_predecessor_whose_successor_still_queues_takes_nothing_new_from_its_last_moment_on() -> None:
    world = at(serving(), RESERVED_S + 900)
    world.see(world.accept(world.launches()[0]))
    world.see(world.listing(**{"chat_1_g2": ReplicaPhase.PENDING}))
    at(world, RESERVED_S + 0.1).see(world.listing(**{"chat_1_g2": ReplicaPhase.PENDING}))
    assert world.phases()[FIRST] == "ready"
    world.wake()
    assert world.phases()[FIRST] == "draining"
    assert world.replica(FIRST).drain.deadline_at == world.now + 400  # type: ignore[union-attr]  # it is draining


def test_a_successor_may_be_one_more_than_the_model_may_have() -> None:
    world = at(serving(maximum=1), RESERVED_S + 900)
    assert len(world.launches()) == 1


def test_a_pool_without_room_for_a_successor_says_so_and_the_predecessor_serves_to_its_last_moment() -> None:
    world = at(serving(gpus=1), RESERVED_S + 900)
    assert (world.launches(), world.codes()[-1]) == ([], "no_pool")
    at(world, RESERVED_S)
    assert world.phases() == {FIRST: "draining"}


def test_a_successor_is_no_supply_on_its_way_that_more_load_could_count_on() -> None:
    world = World(
        models=(model_spec(drain_limit_s=400.0, maximum=4, policy=replace(model_spec().policy, kind="fake_relative")),),
        pools=(PoolSpec("local", "slurm", gpus=8),), limits=Limits(renewal=RENEWAL), life_s=DAY_S,
    )  # fmt: skip
    world.begin().bring_up()
    at(world, RESERVED_S + 900)
    assert len(world.launches()) == 1
    world.wants(2.0)
    assert (world.target(), len(world.launches())) == (2, 1)


def test_what_is_not_wanted_any_more_has_no_successor() -> None:
    world = serving(maximum=2)
    world.wants(2.0)
    world.bring_up()
    at(world, RESERVED_S + 900)
    assert len(world.launches()) == 2
    world.wants(0.0)
    world.see(world.snapshot())
    assert world.target() == 1
    assert world.phases()["chat-2-g3"] == "stopping" or world.phases()["chat-3-g4"] == "stopping"
    assert sum(phase == "draining" for phase in world.phases().values()) == 1


def test_a_life_that_was_extended_needs_no_successor_yet() -> None:
    world = at(serving(gpus=1), RESERVED_S + 900)
    assert world.replica(FIRST).expiring_since is not None
    world.life_s = 2 * DAY_S
    world.see(world.listing())
    assert world.replica(FIRST).expiring_since is None
    assert world.registry() == [(FIRST, "ready")]


def test_a_life_that_was_shortened_ends_in_a_drain_at_once() -> None:
    """Preemption: Slurm moves a job's end to the end of its grace."""
    world = serving()
    world.after(3600)
    world.life_s = 3600.0 + 120.0
    world.see(world.listing())
    record = world.replica(FIRST)
    world.after(0.1).see(world.snapshot())
    world.now = record.serves_until  # type: ignore[assignment]  # it has one
    world.see(world.snapshot())
    assert world.phases()[FIRST] == "draining"
    assert world.replica(FIRST).drain.deadline_at <= record.not_after  # type: ignore[union-attr,operator]


def test_a_short_life_is_divided_between_serving_waiting_and_draining() -> None:
    world = serving(life_s=800.0)
    record = world.replica(FIRST)
    assert endpoint_record(record).not_after == world.now + 600
    world.after(300).see(world.listing(), world.snapshot())
    assert len(world.launches()) == 1


def test_its_end_while_it_drains_is_no_failure() -> None:
    world = at(serving(), RESERVED_S)
    world.see(world.listing(**{"chat_0_g1": ReplicaPhase.FAILED}))
    assert (world.phases()[FIRST], world.replica(FIRST).failure) == ("gone", "")


def test_in_a_pause_nothing_is_started_and_the_registry_still_says_when_it_ends() -> None:
    world = serving()
    world.pause(PauseScope.MODEL, "chat")
    at(world, RESERVED_S + 900)
    assert (world.launches(), world.phases()) == ([], {FIRST: "ready"})
    at(world, RESERVED_S)
    assert world.registry() == [(FIRST, "draining")]
    assert world.stops() == []


# -- what was learned


def learned(*waits: tuple[float, float], pool_id: str = "local", model_id: str = "chat") -> StartTimes:
    """(when, how long it queued); each loaded for 200 s."""
    return StartTimes(pool_id, model_id, 1, tuple(StartTime(when, queue_s, 200.0) for when, queue_s in waits))


@pytest.mark.parametrize(
    ("starts", "lead_s"),
    [
        pytest.param(None, 900.0, id="before anything was seen: the priors"),
        pytest.param([50.0] * 4, 900.0, id="four short waits: the priors still"),
        pytest.param([2000.0, 50.0], 2300.0, id="a wait above the prior counts at once"),
        pytest.param([50.0] * 5, 250.0, id="five: what was seen"),
        pytest.param([10.0] * 19 + [700.0], 210.0, id="the worst of twenty is left out"),
        pytest.param([10.0] * 18 + [700.0] * 2, 900.0, id="two of twenty are not"),
    ],
)
def test_queueing_and_loading_are_learned(starts: list[float] | None, lead_s: float) -> None:
    world = serving()
    if starts is not None:
        known = learned(*((world.now, wait_s) for wait_s in starts))
        world.state = world.state.with_changes({("starts", "chat/local"): known})
    else:
        world.state = world.state.with_changes({("starts", "chat/local"): None})
    at(world, RESERVED_S + lead_s + 0.1)
    assert world.launches() == []
    at(world, RESERVED_S + lead_s)
    assert len(world.launches()) == 1


def test_waits_of_the_same_time_of_day_count_where_there_are_enough() -> None:
    world = serving()
    due_at = world.replica(FIRST).not_after - RESERVED_S - 300  # type: ignore[operator]  # it has one
    nights = [(due_at - day * DAY_S, 100.0) for day in range(1, 7)]
    days = [(due_at - day * DAY_S - DAY_S / 2, 5000.0) for day in range(1, 7)]
    world.state = world.state.with_changes({("starts", "chat/local"): learned(*days, *nights)})
    at(world, RESERVED_S + 300.1)
    assert world.launches() == []
    at(world, RESERVED_S + 300)
    assert len(world.launches()) == 1


def test_the_waits_of_other_models_of_the_same_size_in_the_same_pool_count() -> None:
    world = serving()
    others = learned(*[(world.now, 1700.0)] * 5, model_id="code")
    world.state = world.state.with_changes({("starts", "code/local"): others})
    at(world, RESERVED_S + 1700 + 300)
    assert len(world.launches()) == 1


LOADS: dict[str, tuple[dict[StartPlace, float], float]] = {
    "nobody tells places: the P95 of all": ({StartPlace(): 200.0}, 200.0),
    "weights that lie in memory are not counted on": (
        {StartPlace("gpu:h100", weights_cached=True): 20.0, StartPlace("gpu:h100"): 200.0}, 200.0,
    ),
    "nor is the faster kind of node": ({StartPlace("gpu:h100"): 100.0, StartPlace("gpu:a100"): 200.0}, 200.0),
    "where all starts found them, they are": ({StartPlace("gpu:h100", weights_cached=True): 20.0}, 20.0),
}  # fmt: skip


@pytest.mark.parametrize(("loads", "load_s"), LOADS.values(), ids=LOADS)
def test_a_successor_is_given_the_time_to_load_in_the_worst_place(
    loads: dict[StartPlace, float], load_s: float
) -> None:
    """Where it starts nobody knows, and its predecessor still holds the node that has the weights."""
    world = serving()
    latest = tuple(StartTime(world.now, 100.0, seconds, place) for place, seconds in loads.items() for _ in range(5))
    world.state = world.state.with_changes({("starts", "chat/local"): StartTimes("local", "chat", 1, latest)})
    at(world, RESERVED_S + 100 + load_s + 0.1)
    assert world.launches() == []
    at(world, RESERVED_S + 100 + load_s)
    assert len(world.launches()) == 1


def started(world: World, place: StartPlace | None) -> World:
    """The first replica is asked for, starts 40 s later and is ready after 20 s more."""
    world.begin()
    world.see(world.accept(world.launches()[0]))
    world.after(40)
    listing = world.listing()
    world.see(replace(listing, replicas=tuple(replace(shown, start_place=place) for shown in listing.replicas)))
    world.after(20).see(world.probe(FIRST))
    return world


@pytest.mark.parametrize(
    ("told", "remembered"),
    [
        pytest.param(StartPlace("gpu:h100", True), StartPlace("gpu:h100", True), id="its pool tells its place"),
        pytest.param(None, StartPlace(), id="its pool does not"),
    ],
)
def test_each_start_is_remembered_in_its_two_parts_with_its_place(
    told: StartPlace | None, remembered: StartPlace
) -> None:
    world = started(World(pools=(PoolSpec("local", "slurm", gpus=8),)), told)
    assert world.state.starts["chat/local"].latest == (StartTime(world.now, 40.0, 20.0, remembered),)


def test_a_policy_is_told_of_its_model_s_starts_and_of_no_other_s() -> None:
    asked: list[FleetSnapshot] = []

    class FakeCuriousPolicy(FakePolicy):
        def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
            asked.append(snapshot)
            return FakePolicy.recommend(self, snapshot, memory)

    world = started(World(policies=lambda spec: FakeCuriousPolicy()), StartPlace("gpu:h100"))
    assert (asked[0].start_time_s, asked[0].starts) == (None, ())
    world.state = world.state.with_changes({("starts", "code/local"): learned((world.now, 5.0), model_id="code")})
    world.see(world.snapshot())
    assert (asked[-1].start_time_s, asked[-1].starts) == (60.0, (world.state.starts["chat/local"],))


def test_a_model_that_is_forgotten_leaves_nothing_learned() -> None:
    world = serving()
    world.models = ()
    world.see(world.declared())
    world.wake()  # nobody can say what is in flight: the drain's deadline
    world.see(world.listing(chat_0_g1=ReplicaPhase.GONE))
    world.after(600).see(world.listing())
    assert (dict(world.state.models), dict(world.state.starts)) == ({}, {})
