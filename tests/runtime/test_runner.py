"""The runner in virtual time: every way in which a pool can answer, or not, becomes one receipt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest
import structlog

from broker.app.runner import AsyncRunner
from broker.clock import LoopClock
from broker.model.errors import ActionRejected, ActuatorError, CapacityUnavailable, TransientError
from broker.model.identity import action_id, replica_name
from broker.model.observation import Outcome, PoolSnapshot, Receipt
from broker.model.plan import Effect, Launch, Stop
from broker.model.ports import Runner
from broker.model.replica import StopMode, Tier
from broker.model.spec import EngineSpec, ModelSpec, PolicySpec

BASE = 1_750_000_000.0
CHAT = ModelSpec("chat", EngineSpec(("serve",)), PolicySpec("threshold"))

Answer = Callable[[], Awaitable[None]]


async def at_once() -> None: ...


def after(seconds: float) -> Answer:
    async def answer() -> None:
        await asyncio.sleep(seconds)

    return answer


def failing(error: BaseException) -> Answer:
    async def answer() -> None:
        raise error

    return answer


@dataclass
class FakePool:
    """An actuator whose answers are given as coroutines. It counts what runs at once and what was cut off."""

    answer: Answer = at_once
    begun: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    pool_id: str = "pool"

    async def observe(self) -> PoolSnapshot:
        return PoolSnapshot(self.pool_id, BASE, BASE, known=True)

    async def start(self, launch: Launch) -> Receipt:
        return await self._act(launch, "chat")

    async def stop(self, order: Stop) -> Receipt:
        return await self._act(order, order.model_id)

    async def close(self) -> None: ...

    async def _act(self, effect: Effect, model_id: str) -> Receipt:
        self.begun.append(effect.action_id)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.answer()
        except asyncio.CancelledError:
            self.cut_off.append(effect.action_id)
            raise
        finally:
            self.running -= 1
        return Receipt(effect.action_id, effect.replica_id, model_id, Outcome.ACCEPTED, BASE, BASE)


def launch(ordinal: int = 0, pool_id: str = "pool") -> Launch:
    name = replica_name("chat", ordinal, 1)
    return Launch(
        action_id("launch", "site", "chat", ordinal, 1), "site", name, CHAT, pool_id, ordinal, 1, Tier.BASELINE
    )


def stop(ordinal: int = 0) -> Stop:
    name = replica_name("chat", ordinal, 1)
    return Stop(action_id("stop", "site", "chat", ordinal, 1), "site", name, "chat", "pool", 1, StopMode.GRACEFUL)


def runner_over(
    pools: Mapping[str, FakePool],
    *,
    timeout_s: float = 10.0,
    concurrency: int = 2,
    may_act: Callable[[], bool] = lambda: True,
) -> AsyncRunner:
    return AsyncRunner(pools, LoopClock(BASE), timeout_s=timeout_s, concurrency=concurrency, may_act=may_act)


@pytest.mark.looptime
@pytest.mark.parametrize("effect", [launch(), stop()], ids=["launch", "stop"])
async def test_the_pools_own_receipt_comes_back(effect: Effect) -> None:
    runner: Runner = runner_over({"pool": FakePool()})
    receipt = await runner.execute(effect)
    assert (receipt.action_id, receipt.outcome) == (effect.action_id, Outcome.ACCEPTED)


FAILURES = [
    ("a passing trouble", TransientError("busy", retry_after_s=7), Outcome.TRANSIENT, 7.0, "busy"),
    ("a full pool", CapacityUnavailable("no GPU left"), Outcome.NO_CAPACITY, 0.0, "no GPU left"),
    ("a refusal for good", ActionRejected("no such partition"), Outcome.REJECTED, 0.0, "no such partition"),
    ("an actuator's error of no kind", ActuatorError("odd"), Outcome.TRANSIENT, 1.0, "ActuatorError: odd"),
    ("a bug", KeyError("node"), Outcome.TRANSIENT, 1.0, "KeyError: 'node'"),
    ("the pool's own time-out", TimeoutError(), Outcome.TRANSIENT, 1.0, "TimeoutError"),
    ("something cancelled inside the pool", asyncio.CancelledError(), Outcome.TRANSIENT, 1.0, "CancelledError"),
]


@pytest.mark.looptime
@pytest.mark.parametrize("effect", [launch(), stop()], ids=["launch", "stop"])
@pytest.mark.parametrize(
    ("error", "outcome", "retry_after_s", "detail"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES]
)
async def test_each_failure_becomes_a_receipt(
    effect: Effect, error: BaseException, outcome: Outcome, retry_after_s: float, detail: str
) -> None:
    await asyncio.sleep(3)
    runner = runner_over({"pool": FakePool(failing(error))})
    with structlog.testing.capture_logs():
        receipt = await runner.execute(effect)
    assert receipt == Receipt(
        effect.action_id,
        effect.replica_id,
        "chat",
        outcome,
        observed_at=BASE + 3,
        received_at=BASE + 3,
        retry_after_s=retry_after_s,
        detail=detail,
    )


@pytest.mark.looptime
async def test_only_what_nobody_foresaw_is_logged_with_its_names() -> None:
    for error in (TransientError("busy"), KeyError("node")):
        with structlog.testing.capture_logs() as logged:
            await runner_over({"pool": FakePool(failing(error))}).execute(launch())
        expected = [("effect_failed_unexpectedly", "chat-0-g1")] if isinstance(error, KeyError) else []
        assert [(line["event"], line["replica_id"]) for line in logged] == expected


@pytest.mark.looptime
async def test_a_pool_that_does_not_answer_is_given_up_at_the_time_out() -> None:
    pool = FakePool(after(3600))
    receipt = await runner_over({"pool": pool}).execute(launch())
    assert (receipt.outcome, receipt.detail) == (Outcome.TRANSIENT, "pool pool did not answer within 10 s")
    assert receipt.received_at == BASE + 10
    assert pool.cut_off == [launch().action_id]


@pytest.mark.looptime
async def test_an_unknown_pool_is_refused_with_the_known_ones() -> None:
    receipt = await runner_over({"pool": FakePool()}).execute(launch(pool_id="elsewhere"))
    assert receipt.outcome is Outcome.REJECTED
    assert receipt.detail == "pool elsewhere has no actuator here (known: pool)"


@pytest.mark.looptime
async def test_no_more_than_the_agreed_number_runs_at_once_and_waiting_is_no_time_out() -> None:
    pool = FakePool(after(6))
    runner = runner_over({"pool": pool}, concurrency=2)
    receipts = await asyncio.gather(*(runner.execute(launch(ordinal)) for ordinal in range(6)))
    assert {receipt.outcome for receipt in receipts} == {Outcome.ACCEPTED}
    assert pool.most_running == 2
    assert asyncio.get_running_loop().time() == 18


@pytest.mark.looptime
async def test_a_pool_that_hangs_delays_no_other() -> None:
    runner = runner_over({"pool": FakePool(after(3600)), "other": FakePool()}, concurrency=1)
    hanging = asyncio.create_task(runner.execute(launch(0)))
    await asyncio.sleep(1)
    receipt = await runner.execute(launch(1, pool_id="other"))
    assert (receipt.outcome, asyncio.get_running_loop().time()) == (Outcome.ACCEPTED, 1)
    assert (await hanging).outcome is Outcome.TRANSIENT


@pytest.mark.looptime
async def test_the_same_effect_asked_for_twice_at_once_is_one_call_with_one_receipt() -> None:
    pool = FakePool(after(2))
    runner = runner_over({"pool": pool})
    one, other = await asyncio.gather(runner.execute(launch()), runner.execute(launch()))
    assert one is other
    assert pool.begun == [launch().action_id]


@pytest.mark.looptime
async def test_an_effect_that_has_ended_can_be_asked_for_again() -> None:
    pool = FakePool()
    runner = runner_over({"pool": pool})
    await runner.execute(launch())
    await runner.execute(launch())
    assert len(pool.begun) == 2


class TestWithoutALease:
    @pytest.mark.looptime
    async def test_nothing_is_begun(self) -> None:
        pool = FakePool()
        receipt = await runner_over({"pool": pool}, may_act=lambda: False).execute(launch())
        assert (receipt.outcome, receipt.detail) == (Outcome.TRANSIENT, "this broker does not hold the lease")
        assert pool.begun == []

    @pytest.mark.looptime
    async def test_an_effect_that_waited_for_its_turn_asks_again(self) -> None:
        pool = FakePool(after(5))
        clock = LoopClock(BASE)
        runner = runner_over({"pool": pool}, concurrency=1, may_act=lambda: clock.monotonic() < 3)
        receipts = await asyncio.gather(runner.execute(launch(0)), runner.execute(launch(1)))
        assert [receipt.outcome for receipt in receipts] == [Outcome.ACCEPTED, Outcome.TRANSIENT]
        assert pool.begun == [launch(0).action_id]


class TestCancellation:
    @pytest.mark.looptime
    async def test_the_only_caller_takes_its_call_with_it(self) -> None:
        pool = FakePool(after(5))
        caller = asyncio.create_task(runner_over({"pool": pool}).execute(launch()))
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert pool.cut_off == [launch().action_id]
        assert pool.running == 0

    @pytest.mark.looptime
    async def test_one_of_two_callers_leaves_the_call_to_the_other(self) -> None:
        pool = FakePool(after(5))
        runner = runner_over({"pool": pool})
        leaving, staying = (asyncio.create_task(runner.execute(launch())) for _ in range(2))
        await asyncio.sleep(1)
        leaving.cancel()
        assert (await staying).outcome is Outcome.ACCEPTED
        assert leaving.cancelled()
        assert pool.cut_off == []

    @pytest.mark.looptime
    async def test_who_asks_while_the_last_caller_leaves_gets_a_call_of_its_own_after_it(self) -> None:
        async def slow_to_let_go() -> None:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                await asyncio.sleep(2)
                raise

        pool = FakePool(slow_to_let_go)
        runner = runner_over({"pool": pool})
        leaving = asyncio.create_task(runner.execute(launch()))
        await asyncio.sleep(1)
        leaving.cancel()
        await asyncio.sleep(1)
        assert (await runner.execute(launch())).outcome is Outcome.ACCEPTED
        assert pool.most_running == 1
        assert leaving.cancelled()

    @pytest.mark.looptime
    async def test_a_caller_that_leaves_while_it_waits_for_its_turn_frees_the_place(self) -> None:
        pool = FakePool(after(5))
        runner = runner_over({"pool": pool}, concurrency=1)
        first, second, third = (asyncio.create_task(runner.execute(launch(ordinal))) for ordinal in range(3))
        await asyncio.sleep(1)
        second.cancel()
        await asyncio.gather(first, third)
        assert pool.begun == [launch(0).action_id, launch(2).action_id]
        assert asyncio.get_running_loop().time() == 10
