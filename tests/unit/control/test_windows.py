"""A window that fails: its model knows nothing for a while and says why, the others do not notice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.control.core import BrokerCore
from broker.control.windows import FAULT_OVER_AFTER_S, Windows
from broker.log.memory import MemoryLog
from broker.model.observation import SpecChanged
from broker.model.reading import Freshness
from broker.model.signals import RequestSummary, Signal
from broker.model.snapshot import ModelSnapshot, WindowNeed
from broker.model.spec import PolicySpec, PoolSpec, SiteSpec
from tests.support.builders import request_summary
from tests.support.world import FakePolicy, fake_policies, model_spec

BASE = 1_800_000_000.0
PATIENCE_S = 15.0
NEED = WindowNeed(Signal.QUEUE_AGE, 5.0)


class Told:
    """Keeps what it is told of."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []

    def __call__(self, model_id: str, error: Exception) -> None:
        self.faults.append((model_id, type(error).__name__))


def windows(told: Told) -> Windows:
    made = Windows(told)
    for model_id in ("good", "bad"):
        made.configure(model_id, (NEED,), PATIENCE_S, 0.0)
        made.expect(model_id, ("a",), BASE)
    return made


def poison(sequence: int, at: float) -> RequestSummary:
    """Its arrivals cannot be added up: they are beyond all doubles. The API refuses it; a mistake of ours might not."""
    return replace(request_summary("bad", sequence, at), arrived=10**400)


def snapshot(made: Windows, model_id: str, second: int) -> ModelSnapshot:
    return made.snapshot(model_id, BASE + second, BASE + second)


def test_a_model_whose_window_fails_knows_nothing_and_says_why() -> None:
    made = windows(Told())
    made.observe(poison(1, BASE + 0.5))
    seen = snapshot(made, "bad", 1)
    assert seen.reading(Signal.QUEUE_AGE).freshness is Freshness.ABSENT
    assert not seen.window(NEED.signal, NEED.over_s).covered
    assert seen.problem.startswith("the window of its signals failed and was begun anew: OverflowError: ")


def test_a_window_that_failed_fills_again_and_goes_on_counting() -> None:
    made = windows(Told())
    made.observe(poison(1, BASE + 0.5))
    numbers = [snapshot(made, "bad", 1).sequence]
    made.observe(request_summary("bad", 2, BASE + 1.5))
    after = snapshot(made, "bad", 2)
    assert (bool(after.problem), after.reading(Signal.QUEUE_AGE).current) == (True, 1.25)
    assert [*numbers, after.sequence] == [1, 2]
    assert snapshot(made, "bad", 1 + int(PATIENCE_S)).problem == "", "it is told for as long as the patience"


def test_a_sample_that_cannot_even_be_kept_is_told_by_the_next_snapshot() -> None:
    told = Told()
    made = windows(told)
    assert not made.observe(replace(request_summary("bad", 1, BASE + 0.5), waiting=10**400))
    unknown = snapshot(made, "bad", 1)
    assert unknown.problem
    assert not unknown.readings
    assert len(told.faults) == 1


def test_a_fault_that_comes_back_is_told_once_until_it_was_over() -> None:
    told = Told()
    made = windows(told)
    for second in range(1, 100):
        made.observe(poison(second, BASE + second - 0.5))
        assert snapshot(made, "bad", second).problem
    assert told.faults == [("bad", "OverflowError")]
    later = 100 + int(FAULT_OVER_AFTER_S)
    made.observe(poison(later, BASE + later - 0.5))
    snapshot(made, "bad", later)
    assert told.faults == [("bad", "OverflowError")] * 2


async def test_the_other_models_of_a_broker_go_on_while_one_window_fails_at_every_second() -> None:
    log, told = MemoryLog(), Told()
    core = BrokerCore(log, fake_policies, lambda effect: None, told)
    await core.open("test", BASE)
    site = SiteSpec("test", (PoolSpec("local", "local", gpus=8),))
    core.offer(SpecChanged(site, (model_spec("good"), model_spec("bad")), BASE))
    await core.run(BASE)
    for second in range(1, 6):
        core.observe(poison(second, BASE + second - 0.9))
        core.observe(request_summary("good", second, BASE + second - 0.9))
        while (due := core.due_at()) is not None and due <= BASE + second:
            await core.run(due)
    good, bad = core.loop.state.models["good"].snapshot, core.loop.state.models["bad"].snapshot
    assert good is not None
    assert bad is not None
    assert good.reading(Signal.ARRIVAL_RATE).current == 12.0
    assert bad.problem
    assert told.faults == [("bad", "OverflowError")]


@dataclass(frozen=True, slots=True)
class FakeNeedlessPolicy(FakePolicy):
    """Cannot tell what it needs."""

    def needs(self) -> tuple[WindowNeed, ...]:
        raise KeyError("signal")


async def test_a_policy_that_cannot_tell_its_needs_keeps_no_other_model_from_its_window() -> None:
    def policies(spec: PolicySpec) -> FakePolicy:
        return FakeNeedlessPolicy() if spec.kind == "needless" else fake_policies(spec)

    log, told = MemoryLog(), Told()
    core = BrokerCore(log, policies, lambda effect: None, told)
    await core.open("test", BASE)
    site = SiteSpec("test", (PoolSpec("local", "local", gpus=8),))
    sound = [f"good-{number}" for number in range(8)]  # which of all is configured first is the hash seed's affair
    core.offer(SpecChanged(site, (model_spec("bad", policy=PolicySpec("needless")), *map(model_spec, sound)), BASE))
    await core.run(BASE)
    while (due := core.due_at()) is not None and due <= BASE + 2.0:
        await core.run(due)
    assert [model_id for model_id, model in core.loop.state.models.items() if model.snapshot is None] == []
    assert told.faults == [("bad", "KeyError")]
