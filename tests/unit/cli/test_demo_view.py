from __future__ import annotations

from rich.console import Console

from cli.demo.view import LiveState, render_live
from tests.unit.report.test_summary import decision


def shown(state: LiveState) -> str:
    console = Console(width=130)
    with console.capture() as capture:
        console.print(render_live(state))
    return capture.get()


def test_decisions_that_change_nothing_do_not_hide_the_last_changes() -> None:
    """`rearming` and `supply_on_its_way` come several a second while a replica loads."""
    waiting = [decision(float(n), 3, 3, "rearming") for n in range(40, 20, -1)]
    state = LiveState(60.0, decisions=[*waiting, decision(20.0, 2, 3), decision(10.0, 1, 2)])
    text = shown(state)
    assert "2 -> 3" in text
    assert "1 -> 2" in text
    assert "19 before it left it so too" in text
