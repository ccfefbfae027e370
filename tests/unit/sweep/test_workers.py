"""Tasks on several processes: each is answered once, whatever becomes of its process."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from simulator.sweep.workers import Died, Overdue, run_all

pytestmark = pytest.mark.integration


def doubled(number: int) -> int:
    return 2 * number


def ill_fated(number: int) -> int:
    """Kills its process at 3, ends it at 5."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        os._exit(7)
    return number


def own_process(number: int) -> int:
    return os.getpid()


def test_every_task_is_answered_once() -> None:
    assert sorted(run_all(doubled, range(20), jobs=3)) == [(number, 2 * number) for number in range(20)]


def test_more_processes_than_tasks_are_not_started() -> None:
    assert [task for task, _ in run_all(own_process, range(1), jobs=8)] == [0]
    assert list(run_all(doubled, [], jobs=8)) == []


def test_a_process_serves_many_tasks() -> None:
    assert len({process for _, process in run_all(own_process, range(6), jobs=2)}) <= 2


def test_a_killed_process_loses_its_task_and_the_others_go_on() -> None:
    found = dict(run_all(ill_fated, range(8), jobs=2))
    assert found[3] == Died(-signal.SIGKILL)
    assert found[5] == Died(7)
    assert [found[number] for number in (0, 1, 2, 4, 6, 7)] == [0, 1, 2, 4, 6, 7]


def test_even_the_last_task_may_take_its_process_along() -> None:
    assert list(run_all(ill_fated, [3], jobs=1)) == [(3, Died(-signal.SIGKILL))]


def endless(number: int) -> int:
    """At 3."""
    if number == 3:
        threading.Event().wait()
    return number


def test_a_task_that_takes_too_long_is_ended_and_the_others_go_on() -> None:
    found = dict(run_all(endless, range(6), jobs=2, limit_s=20.0))
    assert found.pop(3) == Overdue(20.0)
    assert found == {number: number for number in (0, 1, 2, 4, 5)}
    assert Overdue(600.0).cause == "it took longer than the time limit of 10m"


def test_who_stops_asking_ends_the_processes() -> None:
    answers = run_all(own_process, range(100), jobs=2)
    _, process = next(answers)
    answers.close()
    assert isinstance(process, int)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "was killed (SIGKILL), as the system does when memory runs out; try fewer --jobs"),
        (-11, "ended by SIGSEGV"),
        (3, "ended with status 3"),
    ],
)
def test_the_cause_says_what_to_do(status: int, words: str) -> None:
    assert words in Died(status).cause
