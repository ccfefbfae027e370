"""When the core takes its snapshots: each model at its own moment, few at once, and what matters much first."""

from __future__ import annotations

from dataclasses import replace

from broker.control.core import BrokerCore
from broker.control.loop import COALESCE_S, Ran
from broker.control.snapshots import ROUTINE_AT_ONCE, SNAPSHOTS_AT_ONCE
from broker.log.memory import MemoryLog
from broker.model.observation import SpecChanged
from broker.model.reading import Freshness
from broker.model.signals import Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import Limits, PoolSpec, SiteSpec
from tests.support.builders import request_summary
from tests.support.world import fake_policies, model_spec

BASE = 1_800_000_000.0
SITE = SiteSpec("test", (PoolSpec("local", "local", gpus=8),))
SLOW = replace(SITE, limits=Limits(snapshot_interval_s=15.0, signal_patience_s=45.0))
MODELS = [f"model-{number}" for number in range(100)]


async def opened(models: list[str], site: SiteSpec = SITE) -> tuple[BrokerCore, MemoryLog]:
    log = MemoryLog()
    core = BrokerCore(log, fake_policies, lambda effect: None)
    await core.open("test", BASE)
    core.offer(SpecChanged(site, tuple(map(model_spec, models)), BASE))
    assert await core.run(BASE) is not None
    return core, log


async def snapshots(log: MemoryLog, after: int) -> list[list[ModelSnapshot]]:
    """The snapshots in each step after step ``after``."""
    return [
        [seen for seen in record.observations if isinstance(seen, ModelSnapshot)]
        async for record in log.steps(after=after)
    ]


async def drive(core: BrokerCore, until: float) -> list[Ran]:
    """Run the core whenever it is due, on time."""
    runs: list[Ran] = []
    while (due := core.due_at()) is not None and due <= until:
        ran = await core.run(due)
        if ran is not None:
            runs.append(ran)
    return runs


async def test_every_model_has_one_snapshot_a_second_and_always_at_the_same_moment_of_it() -> None:
    core, log = await opened(MODELS)
    await drive(core, BASE + 4.0)
    moments: dict[str, list[float]] = {}
    for step in await snapshots(log, after=1):
        for snapshot in step:
            moments.setdefault(snapshot.model_id, []).append(snapshot.received_at)
    assert moments.keys() == set(MODELS)
    for times in moments.values():
        assert len(times) == 4
        assert max(at % 1.0 for at in times) - min(at % 1.0 for at in times) <= COALESCE_S + 1e-6
    assert len({times[0] for times in moments.values()}) > 10


async def test_snapshots_come_at_the_sites_interval_each_model_at_a_moment_of_its_own() -> None:
    core, log = await opened(MODELS, SLOW)
    await drive(core, BASE + 60.0)
    moments: dict[str, list[float]] = {}
    for step in await snapshots(log, after=1):
        for snapshot in step:
            moments.setdefault(snapshot.model_id, []).append(snapshot.observed_at)
    assert moments.keys() == set(MODELS)
    for times in moments.values():
        assert [at - times[0] for at in times] == [0.0, 15.0, 30.0, 45.0]
    assert len({times[0] for times in moments.values()}) > 20


async def test_what_matters_much_does_not_wait_for_the_sites_interval() -> None:
    core, log = await opened(MODELS[:1], SLOW)
    await drive(core, BASE + 16.0)
    taken = len(await snapshots(log, after=1))
    waits = request_summary(MODELS[0], at=BASE + 16.5)
    assert core.observe(waits)
    assert core.due_at() == waits.received_at
    await core.run(waits.received_at)
    (urgent,) = (await snapshots(log, after=1))[taken:]
    assert [snapshot.observed_at for snapshot in urgent] == [waits.received_at]


async def test_a_snapshot_that_is_merely_due_is_of_its_moment_and_an_urgent_one_of_now() -> None:
    core, log = await opened(MODELS[:1])
    due = core.due_at()
    assert due is not None
    await core.run(due + 0.013)
    core.observe(request_summary(MODELS[0], at=due + 0.4))
    await core.run(due + 0.45)
    taken = [(seen.observed_at, seen.received_at) for step in await snapshots(log, after=1) for seen in step]
    assert taken == [(due, due + 0.013), (due + 0.45, due + 0.45)]


async def test_another_patience_for_signals_reaches_the_windows_that_stand() -> None:
    core, _ = await opened(MODELS[:1])
    core.observe(replace(request_summary(MODELS[0], at=BASE + 0.5), waiting=0, oldest_waiting_since=None))
    patient = replace(SITE, limits=Limits(signal_patience_s=60.0))
    core.offer(SpecChanged(patient, (model_spec(MODELS[0]),), BASE + 1.0))
    await drive(core, BASE + 40.0)
    snapshot = core.loop.state.models[MODELS[0]].snapshot
    assert snapshot is not None
    assert snapshot.reading(Signal.ARRIVAL_RATE).freshness is not Freshness.ABSENT
    assert snapshot.reading(Signal.QUEUE_AGE).freshness is Freshness.FRESH


async def test_a_broker_that_falls_behind_takes_a_bounded_number_at_once_and_all_of_them_in_turn() -> None:
    core, log = await opened(MODELS)
    late = BASE + 10.0
    for _ in range(4):
        assert await core.run(late) is not None
    steps = await snapshots(log, after=1)
    assert [len(step) for step in steps] == [SNAPSHOTS_AT_ONCE] * 3 + [len(MODELS) - 3 * SNAPSHOTS_AT_ONCE]
    assert {snapshot.model_id for step in steps for snapshot in step} == set(MODELS)


async def test_a_model_for_which_somebody_begins_to_wait_is_in_the_next_step_however_far_behind_the_broker_is() -> None:
    core, log = await opened(MODELS)
    late = BASE + 10.0
    core.observe(request_summary(MODELS[-1], at=late))
    assert await core.run(late + 0.01) is not None
    (first,) = await snapshots(log, after=1)
    assert MODELS[-1] in {snapshot.model_id for snapshot in first}
    assert len(first) == 1 + ROUTINE_AT_ONCE, "it waits for all that is in its step"


async def test_an_urgent_snapshot_is_due_at_once_and_has_a_step_of_its_own() -> None:
    core, log = await opened(MODELS)
    await core.run(BASE + 0.5)
    at = BASE + 0.501
    assert core.observe(request_summary(MODELS[-1], at=at))
    due = core.due_at()
    assert due is not None
    assert due <= at
    await core.run(at)
    routine, alone = await snapshots(log, after=1)
    assert len(routine) == ROUTINE_AT_ONCE
    assert [snapshot.model_id for snapshot in alone] == [MODELS[-1]]


async def test_a_snapshot_does_not_wait_longer_than_the_coalescing_for_a_clock_that_was_set_back() -> None:
    core, _ = await opened(MODELS[:1])
    await drive(core, BASE + 5.0)
    before = BASE - 3600.0
    assert await core.run(before) is not None
    due = core.due_at()
    assert due is not None
    assert due <= before + 1.0 + COALESCE_S


async def test_a_core_whose_windows_others_keep_lives_of_the_snapshots_that_are_offered() -> None:
    log = MemoryLog()
    core = BrokerCore(log, fake_policies, lambda effect: None, owns_windows=False)
    await core.open("test", BASE)
    core.offer(SpecChanged(SITE, (model_spec("chat"),), BASE))
    await drive(core, BASE + 5.0)
    assert not core.observe(request_summary("chat", at=BASE + 5.0))
    assert await snapshots(log, after=0) == [[]], "it makes none"
    told = ModelSnapshot("chat", 1, BASE + 5.5, BASE + 5.5)
    core.offer(told)
    await drive(core, BASE + 6.0)
    assert await snapshots(log, after=1) == [[told]]
