from __future__ import annotations

import pytest

from actuators.fake import FakeActuator
from broker.model.errors import TransientError
from broker.model.observation import PoolSnapshot
from broker.model.replica import ReplicaPhase, StopMode
from tests.support.actuator_worlds import SetClock, launch_of, stop_of


@pytest.fixture
def clock() -> SetClock:
    return SetClock(at=100.0)


@pytest.fixture
def fake(clock: SetClock) -> FakeActuator:
    return FakeActuator("pool", gpus=4, now=clock.now, pending_s=10.0, start_s=5.0, exit_s=3.0)


async def phase_and_url(fake: FakeActuator) -> tuple[ReplicaPhase, str | None]:
    (replica,) = (await fake.observe()).replicas
    return replica.phase, replica.url


async def test_a_replica_goes_through_its_life_at_the_stated_times(fake: FakeActuator, clock: SetClock) -> None:
    url = "http://chat-0-g1.invalid:8000"
    await fake.start(launch_of())
    life = [
        (100.0, ReplicaPhase.PENDING, None),
        (110.0, ReplicaPhase.STARTING, None),
        (115.0, ReplicaPhase.STARTING, url),
    ]
    for at, phase, listening in life:
        clock.at = at
        assert await phase_and_url(fake) == (phase, listening)
    await fake.stop(stop_of(launch_of()))
    assert await phase_and_url(fake) == (ReplicaPhase.STOPPING, url)
    clock.at = 118.0
    assert await phase_and_url(fake) == (ReplicaPhase.GONE, None)
    clock.at = 118.0 + 3600.0
    assert (await fake.observe()).replicas == ()


async def test_the_start_time_is_that_of_the_process_not_of_the_queue(fake: FakeActuator, clock: SetClock) -> None:
    await fake.start(launch_of())
    clock.at = 200.0
    assert [replica.started_at for replica in (await fake.observe()).replicas] == [110.0]


async def test_a_replica_stopped_while_pending_never_starts(fake: FakeActuator, clock: SetClock) -> None:
    await fake.start(launch_of())
    await fake.stop(stop_of(launch_of(), StopMode.KILL))
    clock.at = 150.0
    assert await phase_and_url(fake) == (ReplicaPhase.GONE, None)


async def test_armed_errors_come_in_order_and_have_no_effect(fake: FakeActuator) -> None:
    fake.fail_next_start(TransientError("first"))
    fake.fail_next_start(TransientError("second"))
    for words in ("first", "second"):
        with pytest.raises(TransientError, match=words):
            await fake.start(launch_of())
    await fake.start(launch_of())
    fake.fail_next_stop(TransientError("busy"))
    with pytest.raises(TransientError, match="busy"):
        await fake.stop(stop_of(launch_of()))
    assert len(fake.starts) == 3
    assert fake.launched == [launch_of()]
    assert fake.stops == [stop_of(launch_of())]
    assert (await phase_and_url(fake))[0] is ReplicaPhase.PENDING


async def test_a_reset_pool_remembers_nothing(fake: FakeActuator) -> None:
    await fake.start(launch_of())
    fake.fail_next_observe("lost")
    fake.reset()
    assert await fake.observe() == PoolSnapshot("pool", 100.0, 100.0, known=True, gpus_total=4)
    await fake.start(launch_of())
    assert fake.launched == [launch_of()]


async def test_an_unchanged_pool_lists_the_same_tuple_so_observing_costs_nothing(fake: FakeActuator) -> None:
    await fake.start(launch_of())
    assert (await fake.observe()).replicas is (await fake.observe()).replicas


def test_it_never_suspends(fake: FakeActuator) -> None:
    """So the simulator can drive the same code without an event loop."""
    with pytest.raises(StopIteration):
        fake.start(launch_of()).send(None)
    with pytest.raises(StopIteration):
        fake.observe().send(None)
