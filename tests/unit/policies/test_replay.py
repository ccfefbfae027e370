"""An hour under the RAMSES rule, with the scale-in that it lacks, as one table of decisions.

The hour: calm, a flood that two replicas cannot serve, its end, gateways that fall silent, calm again. Of the core
there is only what the rule acts upon: a target within limits, and replicas that take two minutes to be ready. Without
the core's credit for supply on its way the rule alone asks for more every 30 s until the first one is ready.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.model.reading import Freshness
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, ModelSnapshot, Supply, WindowReading
from broker.model.state import Memory
from policies.registry import build
from tests.unit.policies.fleet import NOON, threshold, through_json

RAMSES_OUT = {"name": "queue", "signal": "queue_age_s", "above": 5, "for_s": 30, "change": 1}
SPARE_IN = {
    "name": "spare",
    "signal": "requests_per_replica",
    "below": 8,
    "for_s": 300,
    "change": -1,
    "projected": True,
}
TICK_S, START_S, SERVED_AT_ONCE, MAXIMUM = 5, 120, 10.0, 6
FLOOD, SILENCE = range(300, 1500), range(2100, 2400)


@dataclass(frozen=True)
class Seen:
    second: int
    queue_age_s: float
    requests_per_replica: float


def window(history: list[Seen], signal: Signal, over_s: int, now: int) -> WindowReading:
    if now in SILENCE:
        return WindowReading(signal, over_s, Freshness.STALE, False, 0.0, 0.0, 0.0, NOON + SILENCE.start - TICK_S)
    values = [float(getattr(seen, signal.value)) for seen in history if seen.second > now - over_s]
    covered = len(values) == over_s // TICK_S
    mean = sum(values) / len(values)
    return WindowReading(signal, over_s, Freshness.FRESH, covered, min(values), max(values), mean, NOON + now)


def changes_in_an_hour() -> list[tuple[str, int, str]]:
    """(minute:second, new target, code) of every change, and of every change of code beside."""
    policy = build(threshold(RAMSES_OUT, SPARE_IN))
    memory: Memory = {}
    history: list[Seen] = []
    ready_at, waiting_since, last_code = [0], None, ""
    told = []
    for now in range(0, 3600, TICK_S):
        ready = sum(at <= now for at in ready_at)
        load = 32.0 if now in FLOOD else 6.0
        if load <= SERVED_AT_ONCE * ready:
            waiting_since = None
        elif waiting_since is None:
            waiting_since = now
        if now not in SILENCE:
            age = 0.0 if waiting_since is None else float(now - waiting_since)
            history.append(Seen(now, age, load / ready))
        windows = (
            window(history, Signal.QUEUE_AGE, 30, now),
            window(history, Signal.REQUESTS_PER_REPLICA, 300, now),
        )
        target = len(ready_at)
        model = ModelSnapshot("chat", now, NOON + now, NOON + now, {}, windows)
        snapshot = FleetSnapshot(NOON + now, model, Supply(target, ready, target - ready, 0), 1, MAXIMUM)
        recommendation, memory = policy.recommend(snapshot, memory)
        memory = through_json(memory)
        wanted = min(max(recommendation.target, 1), MAXIMUM)
        if wanted != target or recommendation.code != last_code:
            told.append((f"{now // 60:02d}:{now % 60:02d}", wanted, recommendation.code))
        last_code = recommendation.code
        ready_at = ready_at[:wanted] + [now + START_S] * (wanted - target)
    return told


DECISIONS = [
    ("00:00", 1, "window_not_covered"),
    ("00:25", 1, "no_rule_holds"),
    # The flood: 32 concurrent requests on one replica that serves 10. Four are enough, and are ready at 08:35.
    ("05:35", 2, "rule_scale_out"),
    ("05:40", 2, "rearming"),
    ("06:05", 3, "rule_scale_out"),
    ("06:10", 3, "rearming"),
    ("06:35", 4, "rule_scale_out"),
    ("06:40", 4, "rearming"),
    ("07:05", 5, "rule_scale_out"),
    ("07:10", 5, "rearming"),
    ("07:35", 6, "rule_scale_out"),
    ("07:40", 6, "rearming"),
    ("08:05", 6, "rule_scale_out"),
    ("08:10", 6, "rearming"),
    ("08:35", 6, "no_rule_holds"),
    # 32 / 6 fits on five (6.4 < 8); 32 / 5 would be 8 on four, which is not below 8.
    ("14:00", 5, "rule_scale_in"),
    ("14:05", 5, "no_rule_holds"),
    # The flood ends at 25:00.
    ("29:55", 4, "rule_scale_in"),
    ("30:00", 4, "rearming"),
    ("34:55", 3, "rule_scale_in"),
    # Gateways silent from 35:00 to 40:00: nothing is removed, and nothing until the windows have filled again.
    ("35:00", 3, "signals_unusable"),
    ("40:00", 3, "window_not_covered"),
    ("40:25", 3, "no_rule_holds"),
    ("44:55", 2, "rule_scale_in"),
    ("45:00", 2, "rearming"),
    ("49:55", 1, "rule_scale_in"),
    ("50:00", 1, "no_rule_holds"),
]


def test_an_hour_under_the_ramses_rule() -> None:
    assert changes_in_an_hour() == DECISIONS
