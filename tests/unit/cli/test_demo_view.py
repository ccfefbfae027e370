from __future__ import annotations

import pytest
from rich.console import Console

from cli.demo.view import LiveState, render_live
from tests.unit.report.test_summary import decision


def shown(state: LiveState, width: int = 130, height: int = 50) -> str:
    console = Console(width=width, height=height)
    with console.capture() as capture:
        console.print(render_live(state, console))
    return capture.get()


def busy_state() -> LiveState:
    replica = {"replica_id": "chat-1-g12", "phase": "ready", "detail": "serving on port 45678 since a minute"}
    state = LiveState(
        86.0, elapsed_s=61.0, sent=1337, finished=1216, failed=0, open_streams=31, waiting=90, target=4,
        replicas=[replica] * 4,
        decisions=[decision(float(n), n % 4, n % 4 + 1, words="a rule with long words " * 5) for n in range(30)],
    )  # fmt: skip
    state.signals = {"readings": {"queue_age_s": {"freshness": "fresh", "value": 12.3}}}
    for _ in range(200):
        state.note()
    return state


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (130, 50), (200, 60)])
def test_the_view_fills_the_terminal_and_no_more(width: int, height: int) -> None:
    """What was higher than the terminal stayed on it after the demo."""
    lines = shown(busy_state(), width, height).splitlines()
    assert len(lines) == height
    assert all(len(line) == width for line in lines)
    assert lines[-1].startswith("╰")
    assert "a rule with long words" in "\n".join(lines)


@pytest.mark.parametrize("width", [80, 130])
def test_every_chart_is_whole_to_its_newest_end(width: int) -> None:
    lines = shown(busy_state(), width).splitlines()
    charts = [next(line for line in lines if name in line) for name in ("open streams", "ready replicas")]
    assert len({line.rindex("█") for line in charts}) == 1
    assert all("█ " in line and "…" not in line for line in charts)
    assert any("queue age" in line and "12.3 s" in line for line in lines)


def test_what_was_sent_is_the_sum_of_what_became_of_it() -> None:
    assert "sent 1337: 1216 finished, 0 failed, 31 open, 90 waiting for a first answer" in shown(busy_state(), 80, 24)


def test_decisions_that_change_nothing_do_not_hide_the_last_changes() -> None:
    """`rearming` and `supply_on_its_way` come several a second while a replica loads."""
    waiting = [decision(float(n), 3, 3, "rearming") for n in range(40, 20, -1)]
    state = LiveState(60.0, decisions=[*waiting, decision(20.0, 2, 3), decision(10.0, 1, 2)])
    text = shown(state)
    assert "2 -> 3" in text
    assert "1 -> 2" in text
    assert "and so 19 earlier decisions" in text
