"""Production and simulator decide the same: 1,000 generated scripts through both, compared byte for byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

import pytest

from broker.control.reasons import Reason
from broker.log.memory import MemoryStore
from broker.model import wire
from broker.model.observation import Override, PoolSnapshot
from broker.model.plan import Launch, Stop
from broker.model.ports import StepRecord
from broker.model.reading import Freshness
from broker.model.replica import ReplicaPhase
from tests.support.rehearsal import Moment, Script, play_in_production, play_in_simulator
from tests.support.rehearsal_scripts import generated_script
from tests.support.silence import silent_logs

CHUNKS, IN_EACH = 20, 50
PARTS = ("launch", "drain", "stale signal", "failed listing", "override", "restart")

pytestmark = pytest.mark.usefixtures(silent_logs.__name__)


def said(record: StepRecord) -> str:
    """What a step made, as it is written to the wire."""
    made = (record.number, record.epoch, record.now, *record.decisions, *record.effects, *record.registry)
    return "\n".join(wire.dumps(part) if not isinstance(part, int | float) else repr(part) for part in made)


def ingredients(steps: Sequence[StepRecord]) -> Counter[str]:
    """What really happened in a sequence, by how often."""
    decisions = [decision for record in steps for decision in record.decisions]
    observed = [observation for record in steps for observation in record.observations]
    effects = [effect for record in steps for effect in record.effects]
    return Counter(
        {
            "launch": sum(isinstance(effect, Launch) for effect in effects),
            "stop": sum(isinstance(effect, Stop) for effect in effects),
            "drain": sum(e.phase is ReplicaPhase.DRAINING for record in steps for e in record.registry),
            "stale signal": sum(any(i.freshness is Freshness.STALE for i in d.inputs) for d in decisions),
            "failed listing": sum(isinstance(o, PoolSnapshot) and not o.known for o in observed),
            "override": sum(d.code in (Reason.OVERRIDE_TARGET, Reason.OVERRIDE_HOLD) for d in decisions),
            "override told": sum(isinstance(o, Override) for o in observed),
            "restart": len({record.epoch for record in steps}) - 1,
            "decision": len(decisions),
        }
    )


def whole_scripts(chunk: int) -> Iterator[tuple[int, Script, MemoryStore]]:
    """Generated scripts of this chunk in which every part really happened (a pause can swallow one), as simulated."""
    for seed in count(chunk * 10 * IN_EACH):
        script = generated_script(seed)
        simulated = play_in_simulator(script)
        found = ingredients(simulated.steps)
        if all(found[part] for part in PARTS):
            yield seed, script, simulated


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_generated_sequences_decide_the_same_in_production_and_in_the_simulator(chunk: int) -> None:
    happened: Counter[str] = Counter()
    last_seed = 0
    for seed, script, simulated in islice(whole_scripts(chunk), IN_EACH):
        produced = play_in_production(script)
        for ours, theirs in zip(simulated.steps, produced.steps, strict=False):
            assert said(ours) == said(theirs), f"script {seed} differs in step {ours.number}"
            assert (ours.observations, ours.changes) == (theirs.observations, theirs.changes), f"script {seed}"
        assert len(simulated.steps) == len(produced.steps), f"script {seed}"
        assert simulated.endpoints == produced.endpoints
        assert simulated.checkpoints == produced.checkpoints
        happened += ingredients(simulated.steps)
        last_seed = seed
    assert all(happened[part] >= IN_EACH for part in PARTS), happened
    assert happened["stop"] >= IN_EACH / 2
    assert last_seed < chunk * 10 * IN_EACH + 1.2 * IN_EACH, "too many scripts lack a part: mend the generator"


def test_a_step_and_its_bytes_are_the_same_to_the_last_field() -> None:
    """The thousand compare observations and changes as values, which is cheaper; here everything as bytes."""
    for seed in range(5):
        script = generated_script(seed)
        simulated = play_in_simulator(script)
        produced = play_in_production(script)
        assert [wire.dumps(record) for record in simulated.steps] == [wire.dumps(record) for record in produced.steps]


def test_the_comparison_notices_one_moment_that_comes_a_hundredth_of_a_second_later() -> None:
    script = generated_script(1)
    late = [Moment(m.at + 0.01, m.what, m.happen) if m.what == "override" else m for m in script.moments]
    simulated = play_in_simulator(script)
    produced = play_in_production(replace(script, moments=tuple(late)))
    assert [said(record) for record in simulated.steps] != [said(record) for record in produced.steps]
